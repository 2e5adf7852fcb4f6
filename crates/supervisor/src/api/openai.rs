//! OpenAI's contract: `/v1/embeddings` and `/v1/models`. Embeddings are lists of numbers or base64
//! of little-endian f32, which its clients ask for unless told otherwise.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{Request, Response, StatusCode},
    response::IntoResponse,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use onnxd_proto::{domain::Task, wire::ask::Want};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::api::{
    inference::{Begun, TextOptions, check_count, find_model, items, parse, push},
    inputs::Inputs,
    numbers::push_numbers,
};
use crate::{
    api::{
        error::{ApiError, Contract, OpenAiErrors, axum_json},
        router::{App, respond},
    },
    transport::bodies::read_body,
};
use onnxd_engine::models::registry::Model;

/// Texts of one request, as the public API has it.
const INPUTS_MAX: usize = 2048;

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbeddingsRequest {
    input: Inputs,
    /// The first where none is named.
    model: Option<String>,
    encoding_format: Option<EncodingFormat>,
    /// Components of an embedding, fewer than the model gives.
    #[schema(minimum = 1)]
    dimensions: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    Float,
    Base64,
}

/// The embeddings of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingsResponse {
    /// "list".
    object: String,
    data: Vec<EmbeddingObject>,
    model: String,
    usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingObject {
    /// "embedding".
    object: String,
    index: usize,
    embedding: EncodedEmbedding,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is there for the document; the handler writes it")]
enum EncodedEmbedding {
    /// A list of numbers.
    Float(Vec<f32>),
    /// Base64 of little-endian f32.
    Base64(String),
}

#[derive(Debug, Serialize, ToSchema)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// One embedding of each input.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingsRequest,
    responses((status = 200, description = "One embedding of each input", body = EmbeddingsResponse), OpenAiErrors)
)]
pub(crate) async fn embeddings(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::OpenAi, try_embeddings(&app, request)).await
}

async fn try_embeddings(app: &App, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let begun = Begun::new(request.headers())?;
    let body = read_body(app, request).await?;
    // OpenAI answers 400 to all that it cannot understand.
    let request: EmbeddingsRequest =
        parse(&body).map_err(|error| error.with_status(StatusCode::BAD_REQUEST))?;
    let model = find_model(app, request.model.as_deref())?;
    let inputs = request.input.into_list();
    check_count(inputs.len(), INPUTS_MAX, "input")?;
    let want = Want::Embedding { normalize: None, dimensions: request.dimensions };
    let inputs = items(inputs, "input", &TextOptions::cut(), want)?;
    let inference = begun.run(app, model, &[Task::Embed], inputs).await?;
    let mut body = br#"{"object":"list","data":["#.to_vec();
    for (index, item) in inference.answer.items.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        push(&mut body, &format!(r#"{comma}{{"object":"embedding","index":{index},"embedding":"#));
        if request.encoding_format == Some(EncodingFormat::Base64) {
            push(&mut body, &format!("\"{}\"", BASE64_STANDARD.encode(&item.bytes)));
        } else {
            push_numbers(&mut body, &item.bytes)?;
        }
        body.push(b'}');
    }
    let (name, tokens) = (&model.name, inference.answer.tokens);
    let usage = format!(r#"{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}"#);
    push(&mut body, &format!(r#"],"model":"{name}","usage":{usage}}}"#));
    inference.json(body)
}

/// The same as `/v1/embeddings`, for clients whose base URL ends before the version.
#[utoipa::path(
    post, path = "/embeddings", tag = "openai", request_body = EmbeddingsRequest,
    responses((status = 200, description = "One embedding of each input", body = EmbeddingsResponse), OpenAiErrors)
)]
pub(crate) async fn embeddings_short(app: State<App>, request: Request<Body>) -> Response<Body> {
    embeddings(app, request).await
}

/// What is served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// "list".
    object: &'static str,
    data: Vec<ModelObject>,
}

/// A served model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelObject {
    id: String,
    /// "model".
    object: &'static str,
    /// When it was made, which nobody knows: 0.
    created: u64,
    owned_by: &'static str,
}

impl ModelObject {
    fn of(model: &Model) -> Self {
        Self { id: model.name.to_string(), object: "model", created: 0, owned_by: "onnxd" }
    }
}

/// All served models.
#[utoipa::path(
    get, path = "/v1/models", tag = "openai",
    responses((status = 200, description = "All served models", body = ModelList), OpenAiErrors)
)]
pub(crate) async fn models(State(app): State<App>) -> Response<Body> {
    let data = app.registry.models().iter().map(|model| ModelObject::of(model)).collect();
    axum_json(&json!(ModelList { object: "list", data })).into_response()
}

/// One served model.
#[utoipa::path(
    get, path = "/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "The model's name")),
    responses((status = 200, description = "The model", body = ModelObject), OpenAiErrors)
)]
pub(crate) async fn model(State(app): State<App>, Path(name): Path<String>) -> Response<Body> {
    respond(Contract::OpenAi, async {
        let model = find_model(&app, Some(&name))?;
        Ok(axum_json(&json!(ModelObject::of(model))).into_response())
    })
    .await
}
