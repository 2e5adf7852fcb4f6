//! `/v1/rerank` and `/v2/rerank`, in the format that Cohere and Jina share.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::{
    RequestContext,
    engine::{
        labels::Rerank,
        scores::{ranked, sigmoid},
        texts::TextOptions,
    },
};
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
        error::{Class, Fault},
        request::{check_count, context, parse},
    },
    transport::bodies::read_body,
};

/// Maximum documents in one request, as in Cohere's API.
const DOCUMENTS_MAX: usize = 1000;

/// Documents to rank.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CohereRerankRequest)]
pub(crate) struct RerankRequest {
    query: String,
    documents: Vec<Document>,
    /// The model to use. Default: the first model.
    model: Option<String>,
    /// Return only the best `top_n` documents.
    #[schema(minimum = 1)]
    top_n: Option<usize>,
    /// Include the documents in the response.
    return_documents: Option<bool>,
}

/// A document.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string or an object with a text")]
pub(crate) enum Document {
    /// The text itself.
    Text(String),
    /// An object with the text.
    Object(DocumentText),
}

/// The text of a document.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DocumentText {
    text: String,
}

/// Ranked documents, the best first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CohereRerankResponse)]
pub(crate) struct RerankResponse {
    /// "list", as in Jina's API.
    object: &'static str,
    model: String,
    usage: TokenUsage,
    results: Vec<RerankResult>,
    meta: Meta,
}

/// A document's index in the request, and its score.
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

/// Ranks documents by how well they answer a query, the best first.
#[utoipa::path(
    post, path = "/v1/rerank", tag = "cohere", request_body = RerankRequest,
    responses((status = 200, description = "Indexes and scores, the best first", body = RerankResponse), CohereErrors)
)]
pub(crate) async fn rerank_v1(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(try_rerank(&app, request)).await
}

/// Ranks documents by how well they answer a query, the best first.
#[utoipa::path(
    post, path = "/v2/rerank", tag = "cohere", request_body = RerankRequest,
    responses((status = 200, description = "Indexes and scores, the best first", body = RerankResponse), CohereErrors)
)]
pub(crate) async fn rerank_v2(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(try_rerank(&app, request)).await
}

async fn try_rerank(app: &App, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let context = context(request.headers())?;
    let body = read_body(app.engine.memory(), request).await?;
    rerank_body(app, &context, &body).await
}

/// Handles a body with `documents`.
pub(crate) async fn rerank_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let request: RerankRequest = parse(body)?;
    let model = app.engine.find(request.model.as_deref())?;
    check_count(request.documents.len(), DOCUMENTS_MAX, "documents")?;
    if request.top_n == Some(0) {
        let message = "`top_n` must be at least 1";
        return Err(Fault::new(Class::INVALID, message).about("top_n"));
    }
    let text = |document: Document| match document {
        Document::Text(text) | Document::Object(DocumentText { text }) => text,
    };
    let mut texts: Vec<String> = request.documents.into_iter().map(text).collect();
    let rerank = Rerank {
        query: request.query,
        texts: &texts,
        field: "documents",
        options: TextOptions::cut(),
    };
    let answer = app.engine.rerank(context, model, rerank).await?;
    let scores = &answer.output;
    let with_documents = request.return_documents.unwrap_or(false);
    let result = |index: usize| RerankResult {
        index,
        relevance_score: sigmoid(scores[index]),
        document: with_documents.then(|| DocumentText { text: std::mem::take(&mut texts[index]) }),
    };
    let best = ranked(scores).into_iter().take(request.top_n.unwrap_or(usize::MAX));
    let tokens = answer.origin.tokens;
    let response = RerankResponse {
        object: "list",
        model: model.name.to_string(),
        usage: TokenUsage { prompt_tokens: tokens, total_tokens: tokens },
        results: best.map(result).collect(),
        meta: Meta::new(tokens),
    };
    answer::json(app.engine.memory(), &answer.origin, &response, 0)
}
