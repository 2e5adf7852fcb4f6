//! The contracts of Cohere and Jina, which have the same words for reranking: `/v1/rerank` and
//! `/v2/rerank`; and Cohere's `/v1/embed` and `/v2/embed`.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response, StatusCode},
};
use onnxd_proto::{domain::Task, wire::ask::Want};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::api::{
    inference::{Begun, TextOptions, check_count, find_model, items, parse, push},
    inputs::TextOrIds,
    numbers::push_numbers,
    scores::ranked,
    tei::rerank::{pairs, score},
};
use crate::{
    api::{
        error::{ApiError, CohereErrors, Contract, Kind},
        router::{App, respond},
    },
    transport::bodies::read_body,
};

/// Documents of one request, as Cohere's API has it.
const DOCUMENTS_MAX: usize = 1000;
/// Texts of one request to embed, as Cohere's API has it.
const TEXTS_MAX: usize = 96;

/// Documents to put in order.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CohereRerankRequest)]
pub(crate) struct RerankRequest {
    query: String,
    documents: Vec<Document>,
    /// The first where none is named.
    model: Option<String>,
    /// Only so many of the best.
    #[schema(minimum = 1)]
    top_n: Option<usize>,
    /// Whether the documents are in the answer.
    return_documents: Option<bool>,
}

/// A document as it is written.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string or an object with a text")]
pub(crate) enum Document {
    /// Its text.
    Text(String),
    /// An object with its text.
    Object(DocumentText),
}

/// A document's text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DocumentText {
    text: String,
}

/// Documents, the best first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereRerankResponse)]
pub(crate) struct RerankResponse {
    /// "list", as Jina has it.
    object: &'static str,
    model: String,
    usage: TokenUsage,
    results: Vec<RerankResult>,
    meta: Meta,
}

/// A document's place in the request, and its score.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RerankResult {
    index: usize,
    relevance_score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<DocumentText>,
}

#[derive(Debug, Serialize, ToSchema)]
struct TokenUsage {
    prompt_tokens: u64,
    total_tokens: u64,
}

/// What Cohere tells about a call.
#[derive(Debug, Serialize, ToSchema)]
struct Meta {
    api_version: ApiVersion,
    tokens: MetaTokens,
}

#[derive(Debug, Serialize, ToSchema)]
struct ApiVersion {
    version: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct MetaTokens {
    input_tokens: u64,
}

impl Meta {
    fn new(input_tokens: u64) -> Self {
        Self { api_version: ApiVersion { version: "2" }, tokens: MetaTokens { input_tokens } }
    }
}

/// Documents by how well they answer a query, the best first.
#[utoipa::path(
    post, path = "/v1/rerank", tag = "cohere", request_body = RerankRequest,
    responses((status = 200, description = "Places and scores, the best first", body = RerankResponse), CohereErrors)
)]
pub(crate) async fn rerank_v1(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Cohere, try_rerank(&app, request)).await
}

/// Documents by how well they answer a query, the best first.
#[utoipa::path(
    post, path = "/v2/rerank", tag = "cohere", request_body = RerankRequest,
    responses((status = 200, description = "Places and scores, the best first", body = RerankResponse), CohereErrors)
)]
pub(crate) async fn rerank_v2(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Cohere, try_rerank(&app, request)).await
}

async fn try_rerank(app: &App, request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let begun = Begun::new(request.headers())?;
    let body = read_body(app, request).await?;
    rerank_body(app, begun, &body).await
}

/// Answers a body with documents.
pub(super) async fn rerank_body(
    app: &App,
    begun: Begun,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    let request: RerankRequest = parse(body)?;
    let model = find_model(app, request.model.as_deref())?;
    check_count(request.documents.len(), DOCUMENTS_MAX, "documents")?;
    if request.top_n == Some(0) {
        let message = "`top_n` must be at least 1";
        return Err(ApiError::new(Kind::Validation, message).about("top_n"));
    }
    let text = |document: Document| match document {
        Document::Text(text) | Document::Object(DocumentText { text }) => text,
    };
    let mut texts: Vec<String> = request.documents.into_iter().map(text).collect();
    let inputs = pairs(&TextOptions::cut(), request.query, &texts, "documents")?;
    let inference = begun.run(app, model, &[Task::Rerank], inputs).await?;
    let scores: Vec<f32> =
        inference.answer.items.iter().map(|item| score(&item.bytes, false)).collect();
    let with_documents = request.return_documents.unwrap_or(false);
    let result = |index: usize| RerankResult {
        index,
        relevance_score: scores[index],
        document: with_documents.then(|| DocumentText { text: std::mem::take(&mut texts[index]) }),
    };
    let best = ranked(&scores).into_iter().take(request.top_n.unwrap_or(usize::MAX));
    let tokens = inference.answer.tokens;
    let response = RerankResponse {
        object: "list",
        model: model.name.to_string(),
        usage: TokenUsage { prompt_tokens: tokens, total_tokens: tokens },
        results: best.map(result).collect(),
        meta: Meta::new(tokens),
    };
    inference.json(serde_json::to_vec(&response).expect("texts and finite scores are JSON"))
}

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CohereEmbedRequest)]
pub(crate) struct EmbedRequest {
    texts: Vec<String>,
    /// The first where none is named.
    model: Option<String>,
    /// Where texts that are too long are cut: `NONE` refuses them.
    truncate: Option<Truncate>,
    /// What is asked for by type; only `float` is there.
    embedding_types: Option<Vec<EmbeddingType>>,
    /// Components of an embedding, fewer than the model gives.
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

/// The embeddings of texts: a list, or by type.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EmbedResponse {
    id: String,
    embeddings: Embeddings,
    texts: Vec<String>,
    meta: Meta,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is there for the document; the handler writes it")]
enum Embeddings {
    /// Where no types are asked for.
    Floats(Vec<Vec<f32>>),
    /// By type.
    ByType(ByType),
}

#[derive(Debug, Serialize, ToSchema)]
struct ByType {
    float: Vec<Vec<f32>>,
}

/// One embedding of each text: a list, unless types are asked for.
#[utoipa::path(
    post, path = "/v1/embed", tag = "cohere", request_body = EmbedRequest,
    responses((status = 200, description = "One embedding of each text", body = EmbedResponse), CohereErrors)
)]
pub(crate) async fn embed_v1(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Cohere, try_embed(&app, request, false)).await
}

/// One embedding of each text, by type.
#[utoipa::path(
    post, path = "/v2/embed", tag = "cohere", request_body = EmbedRequest,
    responses((status = 200, description = "One embedding of each text", body = EmbedResponse), CohereErrors)
)]
pub(crate) async fn embed_v2(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Cohere, try_embed(&app, request, true)).await
}

async fn try_embed(
    app: &App,
    request: Request<Body>,
    by_type: bool,
) -> Result<Response<Body>, ApiError> {
    let begun = Begun::new(request.headers())?;
    let body = read_body(app, request).await?;
    let request: EmbedRequest =
        parse(&body).map_err(|error| error.with_status(StatusCode::BAD_REQUEST))?;
    let model = find_model(app, request.model.as_deref())?;
    check_count(request.texts.len(), TEXTS_MAX, "texts")?;
    let by_type = by_type || request.embedding_types.is_some();
    let side = match request.truncate.unwrap_or(Truncate::End) {
        Truncate::None => None,
        Truncate::Start => Some(onnxd_proto::wire::ask::Side::Left),
        Truncate::End => Some(onnxd_proto::wire::ask::Side::Right),
    };
    let options = TextOptions { truncate: side, prompt: None };
    let want = Want::Embedding { normalize: None, dimensions: request.output_dimension };
    let texts = request.texts.iter().cloned().map(TextOrIds::Text).collect();
    let inputs = items(texts, "texts", &options, want)?;
    let inference = begun.run(app, model, &[Task::Embed], inputs).await?;
    let mut body = br#"{"id":"","embeddings":"#.to_vec();
    push(&mut body, if by_type { r#"{"float":["# } else { "[" });
    for (place, item) in inference.answer.items.iter().enumerate() {
        push(&mut body, if place > 0 { "," } else { "" });
        push_numbers(&mut body, &item.bytes)?;
    }
    push(&mut body, if by_type { "]}" } else { "]" });
    let kind = if by_type { "embeddings_by_type" } else { "embeddings_floats" };
    let rest = json!({
        "texts": request.texts,
        "meta": Meta::new(inference.answer.tokens),
        "response_type": kind,
    });
    // The two halves of one object.
    push(&mut body, ",");
    push(&mut body, &rest.to_string()[1..]);
    inference.json(body)
}
