//! `/similarity`: the cosines of texts to one.

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
        numbers::{Vector, json_bytes},
        options::{Options, Switches, TruncationDirection},
        request::{check_count, context, parse},
        tei::error::{TeiErrors, respond},
    },
    transport::bodies::read_body,
};

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
#[serde(deny_unknown_fields)]
struct SimilarityParameters {
    /// Cut texts that are too long rather than refuse them; true where it is missing.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// The model's prompt of this name is put before each text.
    prompt_name: Option<String>,
    /// What the texts are, `query` or `document`: the model's prompt or way for it is used.
    input_type: Option<String>,
    /// Values of scalar inputs of the model's graph.
    switches: Option<Switches>,
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
    let SimilarityParameters { truncate, truncation_direction, prompt_name, input_type, switches } =
        request.parameters.unwrap_or_default();
    let options =
        Options { truncate, truncation_direction, prompt_name, input_type, switches }.into();
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
