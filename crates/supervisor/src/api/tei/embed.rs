//! `/embed` and `/embed_all`. Hugging Face's clients send some fields in `parameters`.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::{RequestContext, engine::texts::Embed};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    api::{
        answer,
        app::App,
        error::Fault,
        inputs::Inputs,
        numbers::{Vector, Vectors, json_bytes},
        options::{Options, Switches, TruncationDirection},
        request::{check_count, context, parse},
        tei::error::{TeiErrors, respond},
    },
    transport::bodies::read_body,
};

/// Texts to embed. Fields here take precedence over `parameters`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbedRequest {
    inputs: Inputs,
    /// The model to use. Default: the first model.
    model: Option<String>,
    /// Scale embeddings to length 1. Default: true.
    normalize: Option<bool>,
    /// Truncate texts that are too long instead of rejecting them. Default: true.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// Name of the model's prompt to prepend to each text.
    prompt_name: Option<String>,
    /// The kind of text, `query` or `document`: selects the model's prompt or path for it.
    input_type: Option<String>,
    /// Values for scalar inputs of the model's graph.
    switches: Option<Switches>,
    /// Number of components to keep, at most the model's.
    #[schema(minimum = 1)]
    dimensions: Option<u32>,
    /// The same fields, as Hugging Face's clients send them. Unknown ones are rejected.
    #[serde(default)]
    #[schema(value_type = Option<EmbedParameters>)]
    parameters: Option<EmbedParameters>,
}

/// Fields of an embedding request, as Hugging Face's clients send them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbedParameters {
    normalize: Option<bool>,
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    prompt_name: Option<String>,
    input_type: Option<String>,
    switches: Option<Switches>,
    #[schema(minimum = 1)]
    dimensions: Option<u32>,
    /// Only `float` is supported.
    #[serde(default, rename = "encoding_format")]
    _encoding_format: Option<Format>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Float,
}

/// A request to embed, with its fields merged.
pub(super) struct Call {
    pub(super) embed: Embed,
    pub(super) model: Option<String>,
}

impl EmbedRequest {
    /// Converts to the engine's request.
    pub(super) fn into_call(self) -> Call {
        let parameters = self.parameters.unwrap_or_default();
        let options = Options {
            truncate: self.truncate.or(parameters.truncate),
            truncation_direction: self.truncation_direction.or(parameters.truncation_direction),
            prompt_name: self.prompt_name.or(parameters.prompt_name),
            input_type: self.input_type.or(parameters.input_type),
            switches: self.switches.or(parameters.switches),
        };
        let embed = Embed {
            texts: self.inputs.into_texts(),
            field: "inputs",
            options: options.into(),
            // Same as TEI, whatever the model's files say.
            normalize: Some(self.normalize.or(parameters.normalize).unwrap_or(true)),
            dimensions: self.dimensions.or(parameters.dimensions),
        };
        Call { embed, model: self.model }
    }
}

/// Returns one embedding per input, in a list even for a single input.
#[utoipa::path(
    post, path = "/embed", tag = "text-embeddings-inference", request_body = EmbedRequest,
    responses((status = 200, description = "One embedding per input", body = Vec<Vec<f32>>), TeiErrors)
)]
pub(crate) async fn embed(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        embed_body(&app, &context, &body).await
    })
    .await
}

/// Handles the body of `/embed`.
pub(crate) async fn embed_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let Call { embed, model } = parse::<EmbedRequest>(body)?.into_call();
    let model = app.engine.find(model.as_deref())?;
    check_count(embed.texts.len(), app.client_batch, "inputs")?;
    let answer = app.engine.embed(context, model, embed).await?;
    let vectors: Vec<Vector<'_>> = answer.output.iter().map(|bytes| Vector(bytes)).collect();
    let bytes = answer.output.iter().map(|bytes| json_bytes(bytes.len())).sum();
    answer::json(app.engine.memory(), &answer.origin, &vectors, bytes)
}

/// Returns the model's unpooled embedding of each token of each input. Ignores `normalize` and
/// `dimensions`.
#[utoipa::path(
    post, path = "/embed_all", tag = "text-embeddings-inference", request_body = EmbedRequest,
    responses((status = 200, description = "One embedding per token of each input", body = Vec<Vec<Vec<f32>>>), TeiErrors)
)]
pub(crate) async fn embed_all(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        embed_all_body(&app, &context, &body).await
    })
    .await
}

/// Handles the body of `/embed_all`.
pub(crate) async fn embed_all_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let Call { embed, model } = parse::<EmbedRequest>(body)?.into_call();
    let model = app.engine.find(model.as_deref())?;
    check_count(embed.texts.len(), app.client_batch, "inputs")?;
    let answer = app.engine.embed_tokens(context, model, embed).await?;
    let vectors = answer.output.iter();
    let bytes = vectors.clone().map(|vectors| json_bytes(vectors.bytes.len())).sum();
    let vectors: Vec<Vectors<'_>> = vectors
        .map(|vectors| Vectors { bytes: &vectors.bytes, dimension: vectors.dimension })
        .collect();
    answer::json(app.engine.memory(), &answer.origin, &vectors, bytes)
}
