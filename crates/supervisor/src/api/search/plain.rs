//! `POST /search`: embeds texts and finds the nearest documents in one call.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_proto::search::{Hit, Shown};
use onnxd_search::{Rerank, SearchQuery, SearchRequest};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::answer::{add_timing, server_timing};
use crate::{
    api::{
        answer,
        app::App,
        error::{Class, Fault},
        numbers::Finite,
        qdrant::{
            filter::{self, GivenFilter},
            ids::PointId,
        },
        request::{check_count, context, parse},
        tei::error::{TeiErrors, respond},
    },
    transport::bodies::read_body,
};

/// Documents that are returned if the request names no limit.
const LIMIT: usize = 10;
/// Documents that a reranker scores if the request names no number.
const CANDIDATES: usize = 50;

/// A search.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with collection and query")]
pub(crate) struct PlainSearch {
    /// The collection, by name or alias.
    collection: String,
    query: Queries,
    /// Conditions on the payloads, as Qdrant has them.
    filter: Option<GivenFilter>,
    /// Documents to return. Default: 10.
    limit: Option<usize>,
    /// The same as `limit`.
    k: Option<usize>,
    /// Documents to skip.
    offset: Option<usize>,
    /// Leave out documents with a lower score.
    score_threshold: Option<f32>,
    /// Also rank by full text, and combine both ranks.
    #[serde(default)]
    hybrid: bool,
    /// Let a reranker order the best documents.
    rerank: Option<PlainRerank>,
    /// Return the texts. Default: true.
    with_text: Option<bool>,
    /// Return the payloads. Default: true.
    with_payload: Option<bool>,
}

/// How the best documents are ordered again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "`rerank` as an object, {\"model\": \"NAME\", \"candidates\": 50}"
)]
pub(crate) struct PlainRerank {
    /// The served name of the reranker.
    model: String,
    /// Best documents that it scores. Default: 50.
    candidates: Option<usize>,
}

impl From<PlainRerank> for Rerank {
    fn from(PlainRerank { model, candidates }: PlainRerank) -> Self {
        Self { model, candidates: candidates.unwrap_or(CANDIDATES) }
    }
}

/// One text or several.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of strings")]
enum Queries {
    One(String),
    Several(Vec<String>),
}

/// The documents found, the best first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PlainFound {
    /// What embedded the queries.
    model: Embedder,
    /// For a single query.
    #[serde(skip_serializing_if = "Option::is_none")]
    hits: Option<Vec<PlainHit>>,
    /// For a list of queries, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<Vec<PlainHit>>>,
}

/// The model of a search.
#[derive(Debug, Serialize, ToSchema)]
struct Embedder {
    name: String,
    generation: u64,
    version: String,
}

/// A document that was found.
#[derive(Debug, Serialize, ToSchema)]
struct PlainHit {
    id: PointId,
    #[schema(value_type = f32)]
    score: Finite<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    payload: Option<Box<RawValue>>,
}

impl From<Hit> for PlainHit {
    fn from(Hit { id, score, text, payload, .. }: Hit) -> Self {
        // The index stores only JSON.
        let payload = payload.and_then(|payload| RawValue::from_string(payload).ok());
        Self { id: id.into(), score: Finite(score), text, payload }
    }
}

/// Embeds texts and finds the nearest documents.
#[utoipa::path(
    post, path = "/search", tag = "search", request_body = PlainSearch,
    responses((status = 200, description = "The nearest documents, the best first", body = PlainFound), TeiErrors)
)]
pub(crate) async fn search(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(try_search(&app, request)).await
}

async fn try_search(app: &App, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let context = context(request.headers())?;
    let service = app.search()?;
    let _call = service.enter()?;
    let body = read_body(app.engine.memory(), request).await?;
    let request: PlainSearch = parse(&body)?;
    let collection = request.collection.clone();
    let is_one = matches!(request.query, Queries::One(_));
    let requests = requests(request)?;
    check_count(requests.len(), app.client_batch, "query")?;
    let mut found = service.search_all(&context, &collection, &requests).await?;
    let timing = server_timing(&found);
    let origin = found.first_mut().and_then(|found| found.origin.take());
    let origin = origin.ok_or_else(|| Fault::new(Class::EMPTY, "`query` cannot be empty"))?;
    let model = Embedder {
        name: origin.model.name.to_string(),
        generation: origin.generation,
        version: origin.record.version.clone(),
    };
    let bytes = found.iter().flat_map(|found| &found.hits).map(hit_bytes).sum();
    let lists = found.into_iter().map(|found| found.hits.into_iter().map(PlainHit::from).collect());
    let mut lists: Vec<Vec<PlainHit>> = lists.collect();
    let (hits, results) = if is_one { (lists.pop(), None) } else { (None, Some(lists)) };
    let body = PlainFound { model, hits, results };
    let mut response = answer::json(app.engine.memory(), &origin, &body, bytes)?;
    add_timing(&mut response, &timing);
    Ok(response)
}

/// Returns the approximate length of a document in JSON.
fn hit_bytes(hit: &Hit) -> usize {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    64 + length(&hit.text) + length(&hit.payload)
}

/// Returns a search for each query.
fn requests(request: PlainSearch) -> Result<Vec<SearchRequest>, Fault> {
    let queries = match request.query {
        Queries::One(query) => vec![query],
        Queries::Several(queries) => queries,
    };
    let shown = Shown {
        text: request.with_text.unwrap_or(true),
        payload: request.with_payload.unwrap_or(true),
        vector: None,
    };
    let rerank = request.rerank.map(Rerank::from);
    let limit = match (request.limit, request.k) {
        (Some(_), Some(_)) => {
            return Err(Fault::new(
                Class::INVALID,
                "`limit` and `k` mean the same; send one of them",
            ));
        }
        (limit, k) => limit.or(k).unwrap_or(LIMIT),
    };
    let filter = filter::convert(request.filter)?;
    let search = |query| SearchRequest {
        query: SearchQuery::Text(query),
        filter: filter.clone(),
        limit,
        offset: request.offset.unwrap_or(0),
        score_threshold: request.score_threshold,
        hybrid: request.hybrid,
        rerank: rerank.clone(),
        shown: shown.clone(),
    };
    Ok(queries.into_iter().map(search).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(fields: Value) -> Result<SearchRequest, String> {
        let mut body = json!({"collection": "docs", "query": "a"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let parsed = parse(body.to_string().as_bytes()).and_then(requests);
        parsed.map(|mut all| all.remove(0)).map_err(|fault| fault.message)
    }

    #[test]
    fn limits_and_rerankers_have_defaults() {
        let plain = read(json!({})).unwrap();
        assert_eq!((plain.limit, plain.offset, plain.rerank.is_none()), (10, 0, true));
        assert_eq!(read(json!({"k": 3})).unwrap().limit, 3);
        let rerank = read(json!({"limit": 4, "rerank": {"model": "r"}})).unwrap();
        assert_eq!((rerank.limit, rerank.rerank.unwrap().candidates), (4, 50));
    }

    #[test]
    fn wrong_fields_are_named() {
        for (fields, words) in [
            (json!({"rerank": "r"}), ["string \"r\"", "`rerank` as an object"]),
            (json!({"limit": 3, "k": 3}), ["`limit` and `k`", "one of them"]),
        ] {
            let message = read(fields.clone()).unwrap_err();
            assert!(words.iter().all(|word| message.contains(word)), "{fields}: {message}");
        }
    }
}
