//! `/v1/embed` and `/v2/embed`.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::engine::texts::{Embed, Purpose, Side, Text, TextOptions};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        answer,
        app::App,
        cohere::{
            error::{CohereErrors, respond},
            meta::Meta,
        },
        error::Fault,
        numbers::{Vector, json_bytes},
        options::Switches,
        request::{check_count, context, parse},
    },
    transport::bodies::read_body,
};

/// Maximum texts in one request, as in Cohere's API.
const TEXTS_MAX: usize = 96;

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CohereEmbedRequest)]
pub(crate) struct EmbedRequest {
    texts: Vec<String>,
    /// The model to use. Default: the first model.
    model: Option<String>,
    /// Where to truncate texts that are too long. `NONE` rejects them.
    truncate: Option<Truncate>,
    /// The kind of text: `search_query` or `search_document` selects the model's prompt or path for
    /// it; `classification` or `clustering` selects the prompt of that name, if the model has one.
    input_type: Option<String>,
    /// Values for scalar inputs of the model's graph.
    switches: Option<Switches>,
    /// The types to return. Only `float` is supported.
    embedding_types: Option<Vec<EmbeddingType>>,
    /// Number of components to keep, at most the model's.
    #[schema(minimum = 1)]
    output_dimension: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Truncate {
    None,
    Start,
    End,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
enum EmbeddingType {
    Float,
}

/// The embeddings, as a list or by type.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbedResponse<'a> {
    id: String,
    embeddings: Embeddings<'a>,
    texts: Vec<String>,
    meta: Meta,
    #[schema(ignore)]
    response_type: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Embeddings<'a> {
    /// Without `embedding_types`.
    Floats(#[schema(inline)] Vec<Vector<'a>>),
    /// By type.
    ByType(ByType<'a>),
}

#[derive(Debug, Serialize, ToSchema)]
struct ByType<'a> {
    #[schema(value_type = Vec<Vec<f32>>)]
    float: Vec<Vector<'a>>,
}

/// Returns one embedding per text: a list, or an object by type if types are requested.
#[utoipa::path(
    post, path = "/v1/embed", tag = "cohere", request_body = EmbedRequest,
    responses((status = 200, description = "One embedding per text", body = EmbedResponse<'static>), CohereErrors)
)]
pub(crate) async fn embed_v1(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(try_embed(&app, request, false)).await
}

/// Returns one embedding per text, by type.
#[utoipa::path(
    post, path = "/v2/embed", tag = "cohere", request_body = EmbedRequest,
    responses((status = 200, description = "One embedding per text", body = EmbedResponse<'static>), CohereErrors)
)]
pub(crate) async fn embed_v2(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(try_embed(&app, request, true)).await
}

async fn try_embed(
    app: &App,
    request: Request<Body>,
    by_type: bool,
) -> Result<Response<Body>, Fault> {
    let context = context(request.headers())?;
    let body = read_body(app.engine.memory(), request).await?;
    let request: EmbedRequest = parse(&body).map_err(Fault::unreadable)?;
    let model = app.engine.find(request.model.as_deref())?;
    check_count(request.texts.len(), TEXTS_MAX, "texts")?;
    let truncate = match request.truncate.unwrap_or(Truncate::End) {
        Truncate::None => None,
        Truncate::Start => Some(Side::Left),
        Truncate::End => Some(Side::Right),
    };
    let options = TextOptions {
        truncate,
        prompt: None,
        purpose: request.input_type.map(|name| Purpose::new(name, "input_type")),
        switches: request.switches.unwrap_or_default().into_list(),
    };
    let embed = Embed {
        texts: request.texts.iter().cloned().map(Text::Text).collect(),
        field: "texts",
        options,
        normalize: None,
        dimensions: request.output_dimension,
    };
    let answer = app.engine.embed(&context, model, embed).await?;
    let float = answer.output.iter().map(|bytes| Vector(bytes)).collect();
    let (embeddings, response_type) = match by_type || request.embedding_types.is_some() {
        true => (Embeddings::ByType(ByType { float }), "embeddings_by_type"),
        false => (Embeddings::Floats(float), "embeddings_floats"),
    };
    let response = EmbedResponse {
        id: String::new(),
        embeddings,
        texts: request.texts,
        meta: Meta::new(answer.origin.tokens),
        response_type,
    };
    let bytes = answer.output.iter().map(|bytes| json_bytes(bytes.len())).sum();
    answer::json(app.engine.memory(), &answer.origin, &response, bytes)
}
