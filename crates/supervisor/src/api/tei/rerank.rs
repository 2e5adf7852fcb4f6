//! `/rerank`: how well texts answer a query. Clients of Cohere and Jina use the same route with
//! other words; a body with `documents` is theirs.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use bytes::Bytes;
use onnxd_proto::{domain::Task, wire::ask::Want};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        cohere,
        error::{ApiError, Contract, Kind, TeiErrors},
        inference::{
            Begun, TextOptions, TruncationDirection, check_count, check_length, find_model, parse,
        },
        router::{App, respond},
        scores::{floats, ranked, sigmoid},
    },
    transport::bodies::read_body,
};
use onnxd_engine::dispatch::Input;

/// Bytes of all pairs of one request.
const PAIRS_BYTES_MAX: usize = 8 << 20;

/// Texts to put in order.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct RerankRequest {
    query: String,
    texts: Vec<String>,
    /// Which of several models; the first where none is named.
    model: Option<String>,
    /// Cut texts that are too long rather than refuse them; true where it is missing.
    truncate: Option<bool>,
    truncation_direction: Option<TruncationDirection>,
    /// Scores as the model gives them, rather than between 0 and 1.
    #[serde(default)]
    raw_scores: bool,
    /// Whether the texts are in the answer.
    #[serde(default)]
    return_text: bool,
}

/// A text's place in the request, and its score.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Rank {
    index: usize,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// What is answered, in the words of the request.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is there for the document; handlers write either")]
pub(crate) enum RerankAnswer {
    /// For a request with `texts`.
    Texts(Vec<Rank>),
    /// For a request with `documents`.
    Documents(cohere::RerankResponse),
}

/// A request in either words.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is there for the document; handlers read either")]
pub(crate) enum RerankBody {
    /// With `texts`.
    Texts(RerankRequest),
    /// With `documents`.
    Documents(cohere::RerankRequest),
}

/// Texts by how well they answer a query, the best first.
#[utoipa::path(
    post, path = "/rerank", tag = "text-embeddings-inference", request_body = RerankBody,
    responses((status = 200, description = "Places and scores, the best first", body = RerankAnswer), TeiErrors)
)]
pub(crate) async fn rerank(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(Contract::Tei, async {
        let begun = Begun::new(request.headers())?;
        let body = read_body(&app, request).await?;
        rerank_body(&app, begun, &body).await
    })
    .await
}

/// Answers the body of `/rerank`.
pub(super) async fn rerank_body(
    app: &App,
    begun: Begun,
    body: &[u8],
) -> Result<Response<Body>, ApiError> {
    if has_documents(body) {
        return cohere::rerank_body(app, begun, body).await;
    }
    let request: RerankRequest = parse(body)?;
    let model = find_model(app, request.model.as_deref())?;
    check_count(request.texts.len(), app.limits.client_batch, "texts")?;
    let options = TextOptions::new(request.truncate, request.truncation_direction, None);
    let inputs = pairs(&options, request.query, &request.texts, "texts")?;
    let inference = begun.run(app, model, &[Task::Rerank], inputs).await?;
    let scores = inference.answer.items.iter().map(|item| score(&item.bytes, request.raw_scores));
    let scores: Vec<f32> = scores.collect();
    let rank = |index: usize| Rank {
        index,
        score: scores[index],
        text: request.return_text.then(|| request.texts[index].clone()),
    };
    let ranks: Vec<Rank> = ranked(&scores).into_iter().map(rank).collect();
    inference.json(serde_json::to_vec(&ranks).expect("texts and finite scores are JSON"))
}

/// Whether a body is in the words of Cohere and Jina.
fn has_documents(body: &[u8]) -> bool {
    /// As far as the two are told apart.
    #[derive(Deserialize)]
    struct Either {
        texts: Option<serde::de::IgnoredAny>,
        documents: Option<serde::de::IgnoredAny>,
    }
    let either = serde_json::from_slice::<Either>(body);
    either.is_ok_and(|either| either.texts.is_none() && either.documents.is_some())
}

/// The items of a query with each of the texts.
///
/// # Errors
/// One is too long.
pub(crate) fn pairs(
    options: &TextOptions,
    query: String,
    texts: &[String],
    field: &'static str,
) -> Result<Vec<Input>, ApiError> {
    check_length(query.len(), "query")?;
    // The query is run with each of the texts: a short body could ask for hours of work.
    let all = texts.iter().map(|text| query.len() + text.len()).sum::<usize>();
    if all > PAIRS_BYTES_MAX {
        let message = format!(
            "Input validation error: the query with each of the `{field}` makes {all} bytes, at most {PAIRS_BYTES_MAX} are allowed"
        );
        return Err(ApiError::new(Kind::Validation, message).about(field));
    }
    let query = Bytes::from(query);
    let pair = |text: &String| {
        check_length(query.len() + text.len(), field)?;
        Ok(options.pair(&query, Bytes::copy_from_slice(text.as_bytes()), Want::Scores))
    };
    texts.iter().map(pair).collect()
}

/// The score of a pair.
pub(crate) fn score(bytes: &[u8], raw: bool) -> f32 {
    let score = floats(bytes).first().copied().unwrap_or_default();
    if raw { score } else { sigmoid(score) }
}
