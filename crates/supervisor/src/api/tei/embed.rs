//! `/embed`, `/embed_all` and `/similarity`.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_proto::{domain::Task, wire::ask::Want};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    api::{
        error::{ApiError, Contract, TeiErrors},
        inference::{
            Begun, TextOptions, TruncationDirection, check_count, find_model, items, parse, push,
        },
        inputs::{Inputs, TextOrIds},
        numbers::push_numbers,
        router::{App, respond},
        scores::floats,
    },
    transport::bodies::read_body,
};

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbedRequest {
    inputs: Inputs,
    /// Which of several models; the first where none is named.
    model: Option<String>,
    /// Scale to length 1; without it the model's own files say.
    normalize: Option<bool>,
    /// Cut texts that are too long rather than refuse them; true where it is missing.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// The model's prompt of this name is put before each text.
    prompt_name: Option<String>,
    /// Components of an embedding, fewer than the model gives.
    #[schema(minimum = 1)]
    dimensions: Option<u32>,
}

/// One embedding of each input, also of a single one.
#[utoipa::path(
    post, path = "/embed", tag = "text-embeddings-inference", request_body = EmbedRequest,
    responses((status = 200, description = "One embedding of each input", body = Vec<Vec<f32>>), TeiErrors)
)]
pub(crate) async fn embed(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Tei, async {
        let begun = Begun::new(request.headers())?;
        let body = read_body(&app, request).await?;
        embed_body(&app, begun, &body).await
    })
    .await
}

/// Answers the body of `/embed`.
pub(super) async fn embed_body(
    app: &App,
    begun: Begun,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    let request: EmbedRequest = parse(body)?;
    let model = find_model(app, request.model.as_deref())?;
    let inputs = request.inputs.into_list();
    check_count(inputs.len(), app.limits.client_batch, "inputs")?;
    let options =
        TextOptions::new(request.truncate, request.truncation_direction, request.prompt_name);
    let want = Want::Embedding { normalize: request.normalize, dimensions: request.dimensions };
    let inputs = items(inputs, "inputs", &options, want)?;
    let inference = begun.run(app, model, &[Task::Embed], inputs).await?;
    let mut body = vec![b'['];
    for (place, item) in inference.answer.items.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        push_numbers(&mut body, &item.bytes)?;
    }
    body.push(b']');
    inference.json(body)
}

/// Texts whose tokens are to be embedded.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbedAllRequest {
    inputs: Inputs,
    /// Which of several models; the first where none is named.
    model: Option<String>,
    /// Cut texts that are too long rather than refuse them; true where it is missing.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// The model's prompt of this name is put before each text.
    prompt_name: Option<String>,
}

/// An embedding of each token of each input, as the model gives it.
#[utoipa::path(
    post, path = "/embed_all", tag = "text-embeddings-inference", request_body = EmbedAllRequest,
    responses((status = 200, description = "For each input an embedding of each token", body = Vec<Vec<Vec<f32>>>), TeiErrors)
)]
pub(crate) async fn embed_all(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Tei, try_embed_all(&app, request)).await
}

async fn try_embed_all(app: &App, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let begun = Begun::new(request.headers())?;
    let body = read_body(app, request).await?;
    let request: EmbedAllRequest = parse(&body)?;
    let model = find_model(app, request.model.as_deref())?;
    let inputs = request.inputs.into_list();
    check_count(inputs.len(), app.limits.client_batch, "inputs")?;
    let options =
        TextOptions::new(request.truncate, request.truncation_direction, request.prompt_name);
    let inputs = items(inputs, "inputs", &options, Want::TokenEmbeddings)?;
    let inference = begun.run(app, model, &[Task::Embed], inputs).await?;
    let row = inference.record.facts.dimension as usize * size_of::<f32>();
    let mut body = vec![b'['];
    for (place, item) in inference.answer.items.iter().enumerate() {
        push(&mut body, if place > 0 { ",[" } else { "[" });
        for (place, token) in item.bytes.chunks_exact(row.max(1)).enumerate() {
            if place > 0 {
                body.push(b',');
            }
            push_numbers(&mut body, token)?;
        }
        body.push(b']');
    }
    body.push(b']');
    inference.json(body)
}

/// Texts to compare with one.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct SimilarityRequest {
    inputs: SimilarityInputs,
    parameters: Option<SimilarityParameters>,
    /// Which of several models; the first where none is named.
    model: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct SimilarityInputs {
    /// What the others are compared with.
    source_sentence: String,
    /// The others.
    sentences: Vec<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
struct SimilarityParameters {
    /// Cut texts that are too long rather than refuse them; true where it is missing.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// The model's prompt of this name is put before each text.
    prompt_name: Option<String>,
}

/// The cosine of each sentence's embedding to that of the source sentence.
#[utoipa::path(
    post, path = "/similarity", tag = "text-embeddings-inference", request_body = SimilarityRequest,
    responses((status = 200, description = "One cosine for each sentence", body = Vec<f32>), TeiErrors)
)]
pub(crate) async fn similarity(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Tei, async {
        let begun = Begun::new(request.headers())?;
        let body = read_body(&app, request).await?;
        similarity_body(&app, begun, &body).await
    })
    .await
}

/// Answers the body of `/similarity`.
pub(super) async fn similarity_body(
    app: &App,
    begun: Begun,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    let request: SimilarityRequest = parse(body)?;
    let model = find_model(app, request.model.as_deref())?;
    let SimilarityInputs { source_sentence, sentences } = request.inputs;
    check_count(sentences.len(), app.limits.client_batch, "sentences")?;
    let parameters = request.parameters.unwrap_or_default();
    let options = TextOptions::new(
        parameters.truncate,
        parameters.truncation_direction,
        parameters.prompt_name,
    );
    let texts = [source_sentence].into_iter().chain(sentences).map(TextOrIds::Text).collect();
    let want = Want::Embedding { normalize: Some(true), dimensions: None };
    let inputs = items(texts, "inputs", &options, want)?;
    let inference = begun.run(app, model, &[Task::Embed], inputs).await?;
    let mut embeddings = inference.answer.items.iter().map(|item| floats(&item.bytes));
    let source = embeddings.next().unwrap_or_default();
    // All have length 1.
    let cosine = |other: Vec<f32>| source.iter().zip(&other).map(|(a, b)| a * b).sum::<f32>();
    let cosines: Vec<u8> =
        embeddings.flat_map(|other| cosine(other).clamp(-1.0, 1.0).to_le_bytes()).collect();
    let mut body = Vec::new();
    push_numbers(&mut body, &cosines)?;
    inference.json(body)
}

/// Which of the calls for embeddings a body is for, where the route does not say it.
pub(super) fn is_similarity(body: &[u8]) -> bool {
    /// As far as the two are told apart: one has texts, the other an object.
    #[derive(Deserialize)]
    struct Either<'a> {
        #[serde(borrow)]
        inputs: &'a RawValue,
    }
    let either = serde_json::from_slice::<Either<'_>>(body);
    either.is_ok_and(|either| either.inputs.get().starts_with('{'))
}
