//! `/embed`, `/embed_all` and `/similarity`.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::{
    RequestContext,
    engine::{
        scores::floats,
        texts::{Embed, Text},
    },
};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    api::{
        answer,
        app::App,
        error::Fault,
        inputs::Inputs,
        numbers::{Vector, Vectors, json_bytes},
        request::{check_count, context, parse},
        tei::{
            error::{TeiErrors, respond},
            options::{TruncationDirection, options},
        },
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
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        embed_body(&app, &context, &body).await
    })
    .await
}

/// Answers the body of `/embed`.
pub(crate) async fn embed_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let request: EmbedRequest = parse(body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let texts = request.inputs.into_texts();
    check_count(texts.len(), app.client_batch, "inputs")?;
    let options = options(request.truncate, request.truncation_direction, request.prompt_name);
    let EmbedRequest { normalize, dimensions, .. } = request;
    let embed = Embed { texts, field: "inputs", options, normalize, dimensions };
    let answer = app.engine.embed(context, model, embed).await?;
    let vectors: Vec<Vector<'_>> = answer.output.iter().map(|bytes| Vector(bytes)).collect();
    let bytes = answer.output.iter().map(|bytes| json_bytes(bytes.len())).sum();
    answer::json(app.engine.memory(), &answer.origin, &vectors, bytes)
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
    respond(try_embed_all(&app, request)).await
}

async fn try_embed_all(app: &App, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let context = context(request.headers())?;
    let body = read_body(app.engine.memory(), request).await?;
    let request: EmbedAllRequest = parse(&body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let texts = request.inputs.into_texts();
    check_count(texts.len(), app.client_batch, "inputs")?;
    let options = options(request.truncate, request.truncation_direction, request.prompt_name);
    let embed = Embed { texts, field: "inputs", options, normalize: None, dimensions: None };
    let answer = app.engine.embed_tokens(&context, model, embed).await?;
    let dimension = answer.origin.record.facts.output().row_len() as usize;
    let texts = answer.output.iter().map(|bytes| Vectors { bytes, dimension });
    let texts: Vec<Vectors<'_>> = texts.collect();
    let bytes = answer.output.iter().map(|bytes| json_bytes(bytes.len())).sum();
    answer::json(app.engine.memory(), &answer.origin, &texts, bytes)
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
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        similarity_body(&app, &context, &body).await
    })
    .await
}

/// Answers the body of `/similarity`.
pub(crate) async fn similarity_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let request: SimilarityRequest = parse(body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let SimilarityInputs { source_sentence, sentences } = request.inputs;
    check_count(sentences.len(), app.client_batch, "sentences")?;
    let SimilarityParameters { truncate, truncation_direction, prompt_name } =
        request.parameters.unwrap_or_default();
    let options = options(truncate, truncation_direction, prompt_name);
    let texts = [source_sentence].into_iter().chain(sentences).map(Text::Text).collect();
    let (field, normalize, dimensions) = ("inputs", Some(true), None);
    let embed = Embed { texts, field, options, normalize, dimensions };
    let answer = app.engine.embed(context, model, embed).await?;
    let mut embeddings = answer.output.iter().map(|bytes| floats(bytes));
    let source = embeddings.next().unwrap_or_default();
    // All have length 1.
    let cosine = |other: Vec<f32>| source.iter().zip(&other).map(|(a, b)| a * b).sum::<f32>();
    let cosines: Vec<u8> =
        embeddings.flat_map(|other| cosine(other).clamp(-1.0, 1.0).to_le_bytes()).collect();
    let bytes = json_bytes(cosines.len());
    answer::json(app.engine.memory(), &answer.origin, &Vector(&cosines), bytes)
}

/// Which of the calls for embeddings a body is for, where the route does not say it.
pub(crate) fn is_similarity(body: &[u8]) -> bool {
    /// As far as the two are told apart: one has texts, the other an object.
    #[derive(Deserialize)]
    struct Either<'a> {
        #[serde(borrow)]
        inputs: &'a RawValue,
    }
    let either = serde_json::from_slice::<Either<'_>>(body);
    either.is_ok_and(|either| either.inputs.get().starts_with('{'))
}
