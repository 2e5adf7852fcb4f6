//! `/v1/vector_stores`: collections of documents as OpenAI's clients see and search them. They are
//! created and filled through Qdrant's interface.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{Request, Response},
    response::IntoResponse,
};
use onnxd_engine::ErrorKind;
use onnxd_proto::search::{CollectionInfo, DocumentId, Hit, Shown};
use onnxd_search::{Found, Rerank, SearchQuery, SearchRequest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{
    api::{
        answer,
        app::App,
        error::{Class, Fault, axum_json},
        inputs::Texts,
        numbers::Finite,
        openai::{
            error::{OpenAiErrors, respond},
            filters::AttributeFilter,
        },
        request::{check_count, context, parse},
        search::answer::{add_timing, server_timing},
    },
    transport::bodies::read_body,
};

/// Results if the request names no number, and the maximum, as in OpenAI's API.
const RESULTS: usize = 10;
const RESULTS_MAX: usize = 50;
/// Maximum queries in one request.
const QUERIES_MAX: usize = 32;
/// Documents that a reranker scores.
const CANDIDATES: usize = 50;
/// Payload fields that clients put a file's name in.
const NAME_FIELDS: [&str; 4] = ["filename", "file_name", "source", "title"];

/// A search in a vector store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VectorStoreSearch {
    query: Texts,
    /// Results to return, 1 to 50. Default: 10.
    #[schema(minimum = 1, maximum = 50)]
    max_num_results: Option<usize>,
    /// A comparison with a field of the payload, or several.
    filters: Option<AttributeFilter>,
    ranking_options: Option<RankingOptions>,
    /// Only `false` is supported: queries are searched for as they are.
    rewrite_query: Option<bool>,
}

/// How results are ranked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RankingOptions {
    /// `none`, `auto` and `default-2024-11-15` rank by similarity. The name of a served reranker
    /// lets it order the best 50.
    ranker: Option<String>,
    /// Leave out results with a lower score.
    score_threshold: Option<f32>,
}

/// The vector stores.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VectorStoreList {
    /// "list".
    object: &'static str,
    data: Vec<VectorStore>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// A vector store: a collection.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VectorStore {
    /// The collection's name.
    id: String,
    /// "vector_store".
    object: &'static str,
    /// Creation time. Unknown, so always 0.
    created_at: u64,
    name: String,
    /// Unknown, so always 0.
    usage_bytes: u64,
    file_counts: FileCounts,
    /// "completed".
    status: &'static str,
    last_active_at: Option<u64>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct FileCounts {
    in_progress: u64,
    /// The number of documents.
    completed: u64,
    failed: u64,
    cancelled: u64,
    total: u64,
}

/// Results of a search, the best first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SearchResultsPage {
    /// "vector_store.search_results.page".
    object: &'static str,
    search_query: Vec<String>,
    data: Vec<SearchResult>,
    has_more: bool,
    next_page: Option<String>,
}

/// A found document.
#[derive(Debug, Serialize, ToSchema)]
struct SearchResult {
    /// The document's id.
    file_id: String,
    /// The payload's `filename`, `file_name`, `source` or `title`, or else the id.
    filename: String,
    #[schema(value_type = f32)]
    score: Finite<f32>,
    /// Fields of the payload that are texts, numbers or booleans.
    #[schema(value_type = Object)]
    attributes: Map<String, Value>,
    content: Vec<ResultContent>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ResultContent {
    /// "text".
    #[serde(rename = "type")]
    kind: &'static str,
    text: String,
}

impl VectorStore {
    fn new(info: CollectionInfo) -> Self {
        let documents = info.documents;
        let model = info.settings.model.map(|model| ("model".to_owned(), model));
        Self {
            id: info.name.clone(),
            object: "vector_store",
            created_at: 0,
            name: info.name,
            usage_bytes: 0,
            file_counts: FileCounts {
                in_progress: 0,
                completed: documents,
                failed: 0,
                cancelled: 0,
                total: documents,
            },
            status: "completed",
            last_active_at: None,
            metadata: model.into_iter().collect(),
        }
    }
}

impl From<Hit> for SearchResult {
    fn from(hit: Hit) -> Self {
        let file_id = match hit.id {
            DocumentId::Number(number) => number.to_string(),
            DocumentId::Text(text) => text,
        };
        // Never fails: the index stores nothing but objects.
        let mut payload: Map<String, Value> =
            hit.payload.and_then(|payload| serde_json::from_str(&payload).ok()).unwrap_or_default();
        let name = NAME_FIELDS.iter().find_map(|field| payload.get(*field)?.as_str());
        let filename = name.unwrap_or(&file_id).to_owned();
        payload.retain(|_, value| value.is_string() || value.is_number() || value.is_boolean());
        let text = hit.text.unwrap_or_default();
        Self {
            file_id,
            filename,
            score: Finite(hit.score),
            attributes: payload,
            content: vec![ResultContent { kind: "text", text }],
        }
    }
}

/// Lists all collections as vector stores.
#[utoipa::path(
    get, path = "/v1/vector_stores", tag = "openai",
    responses((status = 200, description = "All collections", body = VectorStoreList), OpenAiErrors)
)]
pub(crate) async fn vector_stores(State(app): State<App>) -> Response<Body> {
    respond(async {
        let all = app.search()?.collections().await?;
        let data: Vec<VectorStore> = all.into_iter().map(VectorStore::new).collect();
        let id = |store: Option<&VectorStore>| store.map(|store| store.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        let list = VectorStoreList { object: "list", data, first_id, last_id, has_more: false };
        Ok(axum_json(&json!(list)).into_response())
    })
    .await
}

/// Returns a collection as a vector store.
#[utoipa::path(
    get, path = "/v1/vector_stores/{vector_store}", tag = "openai",
    params(("vector_store" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The collection", body = VectorStore), OpenAiErrors)
)]
pub(crate) async fn vector_store(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Response<Body> {
    respond(async {
        let info = app.search()?.collection(&name).await?;
        if let Some(reason) = info.damaged {
            // OpenAI has no status for it, and the number of documents is unknown.
            return Err(Fault::new(Class::Engine(ErrorKind::Unavailable), reason));
        }
        Ok(axum_json(&json!(VectorStore::new(info))).into_response())
    })
    .await
}

/// Embeds queries and finds the nearest documents of a collection. Each document is returned once,
/// with its best score.
#[utoipa::path(
    post, path = "/v1/vector_stores/{vector_store}/search", tag = "openai", request_body = VectorStoreSearch,
    params(("vector_store" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The nearest documents, the best first", body = SearchResultsPage), OpenAiErrors)
)]
pub(crate) async fn search_vector_store(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    respond(try_search(&app, &name, request)).await
}

async fn try_search(
    app: &App,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let context = context(request.headers())?;
    let search = app.search()?;
    let _call = search.enter()?;
    let body = read_body(app.engine.memory(), request).await?;
    let request: VectorStoreSearch = parse(&body)?;
    let (name, settings) = search.settings(name).await?;
    let (queries, requests, limit) = request.into_searches()?;
    let mut found: Vec<Found> = match settings.model {
        Some(_) => search.search_all(&context, &name, &requests).await?,
        // Without a model there are no documents.
        None => Vec::new(),
    };
    let timing = server_timing(&found);
    let origin = found.iter_mut().find_map(|found| found.origin.take());
    let hits = best(found.into_iter().flat_map(|found| found.hits), limit);
    let page = SearchResultsPage {
        object: "vector_store.search_results.page",
        search_query: queries,
        data: hits.into_iter().map(SearchResult::from).collect(),
        has_more: false,
        next_page: None,
    };
    let Some(origin) = origin else { return Ok(axum_json(&json!(page)).into_response()) };
    let mut response = answer::json(app.engine.memory(), &origin, &page, 0)?;
    add_timing(&mut response, &timing);
    Ok(response)
}

impl VectorStoreSearch {
    /// Returns the queries, a search for each, and the number of results.
    fn into_searches(self) -> Result<(Vec<String>, Vec<SearchRequest>, usize), Fault> {
        let invalid =
            |message: String, field| Err(Fault::new(Class::INVALID, message).about(field));
        let queries = self.query.into_list();
        check_count(queries.len(), QUERIES_MAX, "query")?;
        let limit = self.max_num_results.unwrap_or(RESULTS);
        if !(1..=RESULTS_MAX).contains(&limit) {
            let message = format!("`max_num_results` is {limit}, 1 to {RESULTS_MAX} are allowed");
            return invalid(message, "max_num_results");
        }
        if self.rewrite_query == Some(true) {
            let message = "`rewrite_query` is not supported; queries are searched for as they are";
            return invalid(message.to_owned(), "rewrite_query");
        }
        let filter = self.filters.map(AttributeFilter::convert).transpose()?.unwrap_or_default();
        let (ranker, score_threshold) = match self.ranking_options {
            None => (None, None),
            Some(RankingOptions { ranker, score_threshold }) => (ranker, score_threshold),
        };
        let is_own = |ranker: &String| {
            ranker != "none" && ranker != "auto" && !ranker.starts_with("default-")
        };
        let rerank = ranker.filter(is_own).map(|model| Rerank { model, candidates: CANDIDATES });
        let search = |query: &String| SearchRequest {
            query: SearchQuery::Text(query.clone()),
            filter: filter.clone(),
            limit,
            offset: 0,
            score_threshold,
            hybrid: false,
            rerank: rerank.clone(),
            shown: Shown { text: true, payload: true, vector: None },
        };
        let requests = queries.iter().map(search).collect();
        Ok((queries, requests, limit))
    }
}

/// Returns the best hits, each document once.
fn best(hits: impl Iterator<Item = Hit>, limit: usize) -> Vec<Hit> {
    let mut by_id: BTreeMap<DocumentId, Hit> = BTreeMap::new();
    for hit in hits {
        match by_id.get(&hit.id) {
            Some(known) if known.score >= hit.score => {}
            _ => {
                by_id.insert(hit.id.clone(), hit);
            }
        }
    }
    let mut hits: Vec<Hit> = by_id.into_values().collect();
    hits.sort_by(|one, other| other.score.total_cmp(&one.score));
    hits.truncate(limit);
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(id: u64, score: f32) -> Hit {
        let payload = json!({"source": "a.txt", "n": 1, "list": [1], "none": null}).to_string();
        Hit {
            id: DocumentId::Number(id),
            score,
            text: Some("text".into()),
            payload: Some(payload),
            vector: None,
        }
    }

    #[test]
    fn each_document_is_returned_once_with_its_best_score() {
        let hits = [hit(1, 0.5), hit(2, 0.7), hit(1, 0.9), hit(2, 0.1), hit(3, 0.2)];
        let best = best(hits.into_iter(), 2);
        let scores: Vec<_> = best.iter().map(|hit| (hit.id.clone(), hit.score)).collect();
        assert_eq!(scores, [(DocumentId::Number(1), 0.9), (DocumentId::Number(2), 0.7)]);
    }

    #[test]
    fn results_have_attributes_and_a_name() {
        let result = serde_json::to_value(SearchResult::from(hit(1, 0.5))).unwrap();
        let expected = json!({
            "file_id": "1", "filename": "a.txt", "score": 0.5,
            "attributes": {"source": "a.txt", "n": 1},
            "content": [{"type": "text", "text": "text"}],
        });
        assert_eq!(result, expected);
    }

    #[test]
    fn options_that_onnxd_does_not_have_are_refused() {
        let read = |body: Value| {
            let search: VectorStoreSearch =
                serde_json::from_value(body).map_err(|error| error.to_string())?;
            search.into_searches().map_err(|fault| fault.message)
        };
        let (queries, requests, limit) = read(json!({
            "query": ["a", "b"], "max_num_results": 50, "rewrite_query": false,
            "ranking_options": {"ranker": "reranker", "score_threshold": 0.5},
        }))
        .unwrap();
        assert_eq!((queries.len(), requests.len(), limit), (2, 2, 50));
        assert_eq!(requests[1].rerank.as_ref().unwrap().model, "reranker");
        assert_eq!(requests[1].score_threshold, Some(0.5));
        for ranker in ["none", "auto", "default-2024-11-15"] {
            let body = json!({"query": "a", "ranking_options": {"ranker": ranker}});
            assert!(read(body).unwrap().1[0].rerank.is_none());
        }
        for (body, word) in [
            (json!({"query": []}), "query"),
            (json!({"query": "a", "max_num_results": 0}), "max_num_results"),
            (json!({"query": "a", "max_num_results": 51}), "50"),
            (json!({"query": "a", "rewrite_query": true}), "rewrite_query"),
            (json!({"query": "a", "ranking_options": {"hybrid_search": {}}}), "hybrid_search"),
        ] {
            let message = read(body.clone()).unwrap_err();
            assert!(message.contains(word), "{body}: {message}");
        }
    }
}
