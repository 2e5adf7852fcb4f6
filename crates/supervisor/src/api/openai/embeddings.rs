//! `/v1/embeddings`. Returns lists of numbers, or base64 of little-endian f32, which OpenAI's
//! clients request by default.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use onnxd_engine::engine::texts::{Embed, Purpose, TextOptions};
use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema, schema::ArrayBuilder},
};

use crate::{
    api::{
        answer,
        app::App,
        error::Fault,
        inputs::Inputs,
        numbers::{Vector, json_bytes},
        openai::error::{OpenAiErrors, respond},
        options::{Options, Switches},
        request::{check_count, context, parse},
    },
    transport::bodies::read_body,
};

/// Maximum texts in one request, as in OpenAI's API.
const INPUTS_MAX: usize = 2048;

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct EmbeddingsRequest {
    input: Inputs,
    /// The model to use. Default: the first model.
    model: Option<String>,
    encoding_format: Option<EncodingFormat>,
    /// Number of components to keep, at most the model's.
    #[schema(minimum = 1)]
    dimensions: Option<u32>,
    /// Name of the model's prompt to prepend to each text.
    prompt_name: Option<String>,
    /// The kind of text, `query` or `document`: selects the model's prompt or path for it.
    input_type: Option<String>,
    /// The purpose of the embeddings, as in Jina's API: `retrieval.query`, `retrieval.passage`,
    /// `text-matching`, `classification`, `separation`, or a word that the model defines.
    task: Option<String>,
    /// Values for scalar inputs of the model's graph.
    switches: Option<Switches>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    Float,
    Base64,
}

/// The embeddings of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbeddingsResponse<'a> {
    /// "list".
    object: &'static str,
    data: Vec<EmbeddingObject<'a>>,
    model: String,
    usage: Usage,
}

#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingObject<'a> {
    /// "embedding".
    object: &'static str,
    index: usize,
    embedding: EncodedEmbedding<'a>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum EncodedEmbedding<'a> {
    Float(#[schema(inline)] Numbers<'a>),
    /// Base64 of little-endian f32.
    Base64(String),
}

/// A list of numbers.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Numbers<'a>(Vector<'a>);

// The derived schema would describe an object next to the list.
impl PartialSchema for Numbers<'_> {
    fn schema() -> RefOr<Schema> {
        let list = ArrayBuilder::new().items(f32::schema());
        list.description(Some("A list of numbers.")).build().into()
    }
}

impl ToSchema for Numbers<'_> {}

impl<'a> EncodedEmbedding<'a> {
    fn new(bytes: &'a [u8], format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Base64 => Self::Base64(BASE64_STANDARD.encode(bytes)),
            EncodingFormat::Float => Self::Float(Numbers(Vector(bytes))),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct Usage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// Returns one embedding per input.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingsRequest,
    responses((status = 200, description = "One embedding per input", body = EmbeddingsResponse<'static>), OpenAiErrors)
)]
pub(crate) async fn embeddings(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(try_embeddings(&app, request)).await
}

async fn try_embeddings(app: &App, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let context = context(request.headers())?;
    let body = read_body(app.engine.memory(), request).await?;
    let request: EmbeddingsRequest = parse(&body)?;
    let model = app.engine.find(request.model.as_deref())?;
    let texts = request.input.into_texts();
    check_count(texts.len(), INPUTS_MAX, "input")?;
    let EmbeddingsRequest { dimensions, prompt_name, input_type, task, switches, .. } = request;
    let options = Options { prompt_name, input_type, switches, ..Options::default() };
    let mut options = TextOptions::from(options);
    if let Some(task) = task {
        options.purpose = Some(Purpose::new(task, "task"));
    }
    let embed = Embed { texts, field: "input", options, normalize: None, dimensions };
    let answer = app.engine.embed(&context, model, embed).await?;
    let format = request.encoding_format.unwrap_or(EncodingFormat::Float);
    let data = answer.output.iter().enumerate().map(|(index, bytes)| EmbeddingObject {
        object: "embedding",
        index,
        embedding: EncodedEmbedding::new(bytes, format),
    });
    let tokens = answer.origin.tokens;
    let response = EmbeddingsResponse {
        object: "list",
        data: data.collect(),
        model: model.name.to_string(),
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    };
    let bytes = answer.output.iter().map(|bytes| json_bytes(bytes.len())).sum();
    answer::json(app.engine.memory(), &answer.origin, &response, bytes)
}

/// Same as `/v1/embeddings`, for clients whose base URL lacks the version.
#[utoipa::path(
    post, path = "/embeddings", tag = "openai", request_body = EmbeddingsRequest,
    responses((status = 200, description = "One embedding per input", body = EmbeddingsResponse<'static>), OpenAiErrors)
)]
pub(crate) async fn embeddings_short(app: State<App>, request: Request<Body>) -> Response<Body> {
    embeddings(app, request).await
}
