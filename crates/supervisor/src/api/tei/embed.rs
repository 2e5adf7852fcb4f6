//! `/embed` and `/embed_all`. Bodies of Hugging Face's clients have some of their fields in
//! `parameters`.

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

/// Texts to embed. What is here and in `parameters` is taken from here.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbedRequest {
    inputs: Inputs,
    /// Which of several models; the first where none is named.
    model: Option<String>,
    /// Scale to length 1; true where it is missing.
    normalize: Option<bool>,
    /// Cut texts that are too long rather than refuse them; true where it is missing.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// The model's prompt of this name is put before each text.
    prompt_name: Option<String>,
    /// What the texts are, `query` or `document`: the model's prompt or way for it is used.
    input_type: Option<String>,
    /// Values of scalar inputs of the model's graph.
    switches: Option<Switches>,
    /// Components of an embedding, fewer than the model gives.
    #[schema(minimum = 1)]
    dimensions: Option<u32>,
    /// The same fields, as Hugging Face's clients have them. Others are refused.
    #[serde(default)]
    #[schema(value_type = Option<EmbedParameters>)]
    parameters: Option<EmbedParameters>,
}

/// Fields of a request to embed, as Hugging Face's clients have them.
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
    /// Only `float` is there.
    #[serde(default, rename = "encoding_format")]
    _encoding_format: Option<Format>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Float,
}

/// A request to embed, wherever its fields are.
pub(super) struct Call {
    pub(super) embed: Embed,
    pub(super) model: Option<String>,
}

impl EmbedRequest {
    /// As the engine takes it.
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
            // As TEI does, whatever the model's files say.
            normalize: Some(self.normalize.or(parameters.normalize).unwrap_or(true)),
            dimensions: self.dimensions.or(parameters.dimensions),
        };
        Call { embed, model: self.model }
    }
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
    let Call { embed, model } = parse::<EmbedRequest>(body)?.into_call();
    let model = app.engine.find(model.as_deref())?;
    check_count(embed.texts.len(), app.client_batch, "inputs")?;
    let answer = app.engine.embed(context, model, embed).await?;
    let vectors: Vec<Vector<'_>> = answer.output.iter().map(|bytes| Vector(bytes)).collect();
    let bytes = answer.output.iter().map(|bytes| json_bytes(bytes.len())).sum();
    answer::json(app.engine.memory(), &answer.origin, &vectors, bytes)
}

/// An embedding of each token of each input, as the model gives it. `normalize` and `dimensions` are
/// ignored.
#[utoipa::path(
    post, path = "/embed_all", tag = "text-embeddings-inference", request_body = EmbedRequest,
    responses((status = 200, description = "For each input an embedding of each token", body = Vec<Vec<Vec<f32>>>), TeiErrors)
)]
pub(crate) async fn embed_all(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        embed_all_body(&app, &context, &body).await
    })
    .await
}

/// Answers the body of `/embed_all`.
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
