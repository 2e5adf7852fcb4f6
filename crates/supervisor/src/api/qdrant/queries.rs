//! `/points/query` and the older `/points/search`: embed and find in one call.

use std::time::Instant;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderValue, Request, Response},
};
use onnxd_engine::{Engine, RequestContext};
use onnxd_proto::search::{Filter, HITS_MAX, Hit, Settings};
use onnxd_search::{Found, Search, SearchRequest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    api::{
        answer,
        app::App,
        error::Fault,
        qdrant::{
            diversity::Diversity,
            error::{Answer, QdrantErrors, body_of, respond, wrong},
            filter::GivenFilter,
            payloads::{Parts, ScoredPoint, WithPayload, WithVector},
            points::named_version,
            query::{Asked, QueryRequest},
            settings::vector_name,
            vectors::Given,
        },
        request::{check_count, context, parse},
        search::answer::{add_timing, server_timing},
    },
    transport::bodies::read_body,
};

/// Maximum queries in one request.
const QUERIES_MAX: usize = 64;

/// Found points, the best first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueryResponse {
    points: Vec<ScoredPoint>,
}

/// Several queries.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryBatch {
    searches: Vec<QueryRequest>,
}

/// A search, in the older form.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = QdrantSearchRequest)]
#[serde(deny_unknown_fields)]
pub(crate) struct OldSearch {
    /// A vector, `{"text": …, "model": …}`, or one of these with the name of the collection's vector:
    /// `{"name": …, "vector": …}`.
    vector: Given,
    filter: Option<GivenFilter>,
    /// Ignored: searches are exact.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    params: Option<Value>,
    limit: usize,
    offset: Option<usize>,
    /// Default: false.
    with_payload: Option<WithPayload>,
    /// Default: false.
    with_vector: Option<WithVector>,
    score_threshold: Option<f32>,
    /// Ignored: collections are not sharded.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    shard_key: Option<Value>,
}

/// Several searches, in the older form.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = QdrantSearchBatch)]
#[serde(deny_unknown_fields)]
pub(crate) struct OldSearchBatch {
    searches: Vec<OldSearch>,
}

impl OldSearch {
    fn into_query(self) -> Result<QueryRequest, Fault> {
        let (vector, using) = match self.vector {
            Given::Object(mut object) if object.contains_key("vector") => {
                let vector = object.remove("vector").unwrap_or(Given::Other);
                match object.remove("name") {
                    Some(Given::Id(super::ids::PointId::Text(name))) => (vector, Some(name)),
                    _ => return Err(wrong("`name` of a vector must be a string")),
                }
            }
            vector @ (Given::Numbers(_) | Given::Object(_)) => (vector, None),
            Given::Id(_) | Given::Number(_) | Given::Other => {
                return Err(wrong("`vector` must be a list of numbers"));
            }
        };
        let mut query = QueryRequest::nearest(vector, using);
        query.filter = self.filter;
        query.limit = Some(self.limit);
        query.offset = self.offset;
        query.with_payload = self.with_payload;
        query.with_vector = self.with_vector;
        query.score_threshold = self.score_threshold;
        Ok(query)
    }
}

/// Embeds the query and finds the nearest points.
#[utoipa::path(
    post, path = "/collections/{collection}/points/query", tag = "qdrant", request_body = QueryRequest,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The nearest points, the best first", body = Answer<QueryResponse>), QdrantErrors)
)]
pub(crate) async fn query_points(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let read = |request: QueryRequest| Ok(vec![request]);
    respond(run(&app, &name, request, read, |mut lists| QueryResponse {
        points: lists.pop().unwrap_or_default(),
    }))
    .await
}

/// Embeds several queries and finds the nearest points of each.
#[utoipa::path(
    post, path = "/collections/{collection}/points/query/batch", tag = "qdrant", request_body = QueryBatch,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The nearest points of each query", body = Answer<Vec<QueryResponse>>), QdrantErrors)
)]
pub(crate) async fn query_batch(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let read = |batch: QueryBatch| Ok(batch.searches);
    let write = |lists: Vec<Vec<ScoredPoint>>| -> Vec<QueryResponse> {
        lists.into_iter().map(|points| QueryResponse { points }).collect()
    };
    respond(run(&app, &name, request, read, write)).await
}

/// Same as `/points/query`, in the older form.
#[utoipa::path(
    post, path = "/collections/{collection}/points/search", tag = "qdrant", request_body = OldSearch,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The nearest points, the best first", body = Answer<Vec<ScoredPoint>>), QdrantErrors)
)]
pub(crate) async fn search_points(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let read = |search: OldSearch| Ok(vec![search.into_query()?]);
    respond(run(&app, &name, request, read, |mut lists| lists.pop().unwrap_or_default())).await
}

/// Same as `/points/query/batch`, in the older form.
#[utoipa::path(
    post, path = "/collections/{collection}/points/search/batch", tag = "qdrant", request_body = OldSearchBatch,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The nearest points of each search", body = Answer<Vec<Vec<ScoredPoint>>>), QdrantErrors)
)]
pub(crate) async fn search_batch(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let read =
        |batch: OldSearchBatch| batch.searches.into_iter().map(OldSearch::into_query).collect();
    respond(run(&app, &name, request, read, |lists| lists)).await
}

/// Runs the queries of a request. `read` takes them from the body, and `write` makes the result.
async fn run<T: serde::de::DeserializeOwned, R: Serialize>(
    app: &App,
    collection: &str,
    request: Request<Body>,
    read: impl FnOnce(T) -> Result<Vec<QueryRequest>, Fault>,
    write: impl FnOnce(Vec<Vec<ScoredPoint>>) -> R,
) -> Result<Response<Body>, Fault> {
    let started = Instant::now();
    let context = context(request.headers())?;
    let version = named_version(request.headers());
    let search = app.search()?;
    let _call = search.enter()?;
    let body = read_body(app.engine.memory(), request).await?;
    let queries = read(parse(&body)?)?;
    check_count(queries.len(), QUERIES_MAX, "searches")?;
    let (collection, settings) = search.settings(collection).await?;
    let vector = vector_name(&settings);
    let asked: Vec<(Asked, Parts)> = queries
        .into_iter()
        .map(|query| query.interpret(vector.as_deref(), version.as_deref()))
        .collect::<Result<_, _>>()?;
    let target =
        Target { search, engine: &app.engine, collection: &collection, settings: &settings };
    let (lists, found) = target.find(&context, asked).await?;
    let body = body_of(app.engine.memory(), started, write(lists))?;
    Ok(with_headers(&app.engine, &settings, &found, body))
}

/// What is searched.
pub(super) struct Target<'a> {
    pub search: &'a Search,
    pub engine: &'a Engine,
    pub collection: &'a str,
    pub settings: &'a Settings,
}

impl Target<'_> {
    /// Returns the points that each query asks for, and what is known of the searches. All of them are
    /// of the same version.
    async fn find(
        &self,
        context: &RequestContext,
        asked: Vec<(Asked, Parts)>,
    ) -> Result<(Vec<Vec<ScoredPoint>>, Vec<Found>), Fault> {
        let mut requests = Vec::new();
        for (asked, _) in &asked {
            if let Asked::Nearest { request, model, diversity } = asked {
                self.check_model(model.as_deref())?;
                requests.push(widened(request, diversity.as_ref()));
            }
        }
        let mut found = self.nearest(context, &requests).await?;
        let mut each = found.iter_mut();
        let mut lists = Vec::with_capacity(asked.len());
        for (asked, parts) in asked {
            let hits = match asked {
                Asked::Nearest { request, diversity, .. } => match each.next() {
                    Some(found) => {
                        let hits = std::mem::take(&mut found.hits);
                        let hits = chosen(hits, &request, diversity);
                        self.note_shown(&found.version, &hits, &parts);
                        hits
                    }
                    // The collection has no model yet, and so no points.
                    None => Vec::new(),
                },
                Asked::All { filter, limit, offset } => {
                    self.all(filter, (limit, offset), &parts).await?
                }
            };
            lists.push(hits.into_iter().map(|hit| parts.scored(hit)).collect());
        }
        Ok((lists, found))
    }

    /// Notes the vectors that the client is going to get.
    pub(super) fn note_shown(&self, version: &str, hits: &[Hit], parts: &Parts) {
        if parts.vector() {
            self.search.note_vectors(version, hits);
        }
    }

    /// Returns points in the order of their ids.
    async fn all(
        &self,
        filter: Filter,
        (limit, offset): (usize, usize),
        parts: &Parts,
    ) -> Result<Vec<Hit>, Fault> {
        let wanted = limit.saturating_add(offset);
        if wanted > HITS_MAX {
            return Err(wrong(format!(
                "at most {HITS_MAX} points can be asked for, offset included; scroll instead"
            )));
        }
        let shown = (false, parts.payload(), parts.vector());
        let (hits, _) = self.search.scroll(self.collection, filter, (None, wanted), shown).await?;
        Ok(hits.into_iter().skip(offset).collect())
    }

    /// Searches. Returns nothing if the collection has no model yet, and so no points.
    pub(super) async fn nearest(
        &self,
        context: &RequestContext,
        requests: &[SearchRequest],
    ) -> Result<Vec<Found>, Fault> {
        if self.settings.model.is_none() || requests.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.search.search_all(context, self.collection, requests).await?)
    }

    /// Checks the model that a query names.
    ///
    /// # Errors
    /// It is not served, or it is not the collection's.
    pub(super) fn check_model(&self, model: Option<&str>) -> Result<(), Fault> {
        let Some(named) = model.map(|model| self.engine.find(Some(model))).transpose()? else {
            return Ok(());
        };
        // The search reports a model that is not served.
        let is_other =
            |own: &&str| self.engine.find(Some(own)).is_ok_and(|own| own.name != named.name);
        match self.settings.model.as_deref().filter(is_other) {
            Some(own) => Err(wrong(format!(
                "collection `{}` is bound to model `{own}`, not `{}`; name `{own}`, or none",
                self.collection, named.name
            ))),
            None => Ok(()),
        }
    }
}

/// Returns a search with as many candidates, and their vectors, as a choice among them needs.
fn widened(request: &SearchRequest, diversity: Option<&Diversity>) -> SearchRequest {
    let mut widened = request.clone();
    if let Some(diversity) = diversity {
        let wanted = request.limit.saturating_add(request.offset);
        (widened.limit, widened.offset) = (diversity.candidates.max(wanted), 0);
        widened.shown.vector = Some(String::new());
    }
    widened
}

/// Returns those of the candidates that were asked for.
fn chosen(hits: Vec<Hit>, request: &SearchRequest, diversity: Option<Diversity>) -> Vec<Hit> {
    let Some(diversity) = diversity else { return hits };
    let mut hits = diversity.choose(hits, request.limit.saturating_add(request.offset));
    hits.drain(..request.offset.min(hits.len()));
    hits
}

/// Builds a response with the headers of every inference response, and with the times of the
/// searches.
pub(super) fn with_headers(
    engine: &Engine,
    settings: &Settings,
    found: &[Found],
    body: Body,
) -> Response<Body> {
    const JSON: &str = "application/json";
    let Some(first) = found.first() else {
        return super::error::json_response(body);
    };
    let origin = found.iter().find_map(|found| found.origin.as_ref());
    let mut response = match origin {
        Some(origin) => answer::response(origin, JSON, body),
        None => {
            let mut response = super::error::json_response(body);
            let model = settings.model.as_deref().and_then(|model| engine.find(Some(model)).ok());
            let serving = model.and_then(|model| Some((model, model.serving()?)));
            if let Some((model, (generation, record))) = serving
                && record.version == first.version
            {
                let headers = response.headers_mut();
                headers.insert("x-model-generation", HeaderValue::from(generation));
                for (header, value) in
                    [("x-model-name", model.name.as_str()), ("x-model-version", &record.version)]
                {
                    // Never fails: names are validated, versions are hexadecimal.
                    if let Ok(value) = HeaderValue::from_str(value) {
                        headers.insert(header, value);
                    }
                }
            }
            response
        }
    };
    add_timing(&mut response, &server_timing(found));
    response
}
