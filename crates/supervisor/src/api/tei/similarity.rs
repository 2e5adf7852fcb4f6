//! `/similarity`: cosine similarity of texts to one source text.

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

/// Texts to compare with one source text.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct SimilarityRequest {
    inputs: SimilarityInputs,
    parameters: Option<SimilarityParameters>,
    /// The model to use. Default: the first model.
    model: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
struct SimilarityInputs {
    /// The text to compare the others with.
    source_sentence: String,
    /// The texts to compare.
    sentences: Vec<String>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SimilarityParameters {
    /// Truncate texts that are too long instead of rejecting them. Default: true.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// Name of the model's prompt to prepend to each text.
    prompt_name: Option<String>,
    /// The kind of text, `query` or `document`: selects the model's prompt or path for it.
    input_type: Option<String>,
    /// Values for scalar inputs of the model's graph.
    switches: Option<Switches>,
}

/// Returns the cosine similarity of each sentence to the source sentence.
#[utoipa::path(
    post, path = "/similarity", tag = "text-embeddings-inference", request_body = SimilarityRequest,
    responses((status = 200, description = "One cosine per sentence", body = Vec<f32>), TeiErrors)
)]
pub(crate) async fn similarity(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        similarity_body(&app, &context, &body).await
    })
    .await
}

/// Handles the body of `/similarity`.
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
    // The embeddings are normalized.
    let cosine = |other: Vec<f32>| source.iter().zip(&other).map(|(a, b)| a * b).sum::<f32>();
    let cosines: Vec<u8> =
        embeddings.flat_map(|other| cosine(other).clamp(-1.0, 1.0).to_le_bytes()).collect();
    let bytes = json_bytes(cosines.len());
    answer::json(app.engine.memory(), &answer.origin, &Vector(&cosines), bytes)
}

/// Returns whether the body is for `/similarity` rather than `/embed`, for routes that serve both.
pub(crate) fn is_similarity(body: &[u8]) -> bool {
    /// The field that tells them apart: texts in one, an object in the other.
    #[derive(Deserialize)]
    struct Either<'a> {
        #[serde(borrow)]
        inputs: &'a RawValue,
    }
    let either = serde_json::from_slice::<Either<'_>>(body);
    either.is_ok_and(|either| either.inputs.get().starts_with('{'))
}
