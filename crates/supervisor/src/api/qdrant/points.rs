//! `/collections/{collection}/points`: adds, reads, deletes, counts and lists points.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Request, Response},
};
use onnxd_engine::ErrorKind;
use onnxd_proto::search::{HITS_MAX, Selection};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    api::{
        app::App,
        error::{Class, Fault},
        qdrant::{
            error::{Answer, QdrantErrors, answered, read, wrong},
            filter::{self, GivenFilter},
            ids::{PointId, into_documents},
            payloads::{Parts, PointRecord, WithPayload, WithVector},
            settings::vector_name,
            upsert::{self, Upsert},
        },
        request::{context, parse},
    },
    transport::bodies::read_charged,
};

/// Maximum body of a request that adds points, which carries many vectors.
pub(super) const WRITE_BYTES_MAX: usize = 8 << 20;
/// Bodies up to this size are not charged.
pub(super) const UNCHARGED_BYTES_MAX: usize = 64 * 1024;
/// Points of a page if the request names no number, as in Qdrant.
const PAGE: usize = 10;

/// What a change did.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct UpdateResult {
    /// Always 0.
    operation_id: u64,
    /// Always "completed": changes are durable when they are answered.
    status: &'static str,
}

impl UpdateResult {
    pub(super) const DONE: Self = Self { operation_id: 0, status: "completed" };
}

/// Which points are meant: by ids or by a filter.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointsSelector {
    points: Option<Vec<PointId>>,
    filter: Option<GivenFilter>,
    /// Ignored: collections are not sharded.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    shard_key: Option<Value>,
}

impl PointsSelector {
    pub(super) fn convert(self) -> Result<Selection, Fault> {
        selection(self.points, self.filter)
    }
}

/// Returns which points a change concerns.
pub(super) fn selection(
    points: Option<Vec<PointId>>,
    filter: Option<GivenFilter>,
) -> Result<Selection, Fault> {
    match (points, filter) {
        (Some(points), None) => Ok(Selection::Ids(into_documents(points)?)),
        (None, Some(filter)) => Ok(Selection::Matching(filter.convert()?)),
        _ => Err(wrong("name the points by either `points` or `filter`")),
    }
}

/// Adds or replaces points. Texts are embedded.
#[utoipa::path(
    put, path = "/collections/{collection}/points", tag = "qdrant", request_body = Upsert,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "All points are stored", body = Answer<UpdateResult>), QdrantErrors)
)]
pub(crate) async fn upsert_points(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    answered(&app, async {
        let context = context(request.headers())?;
        let version = named_version(request.headers());
        let memory = app.engine.memory();
        let _call = app.search()?.enter()?;
        let body = read_charged(memory, request, UNCHARGED_BYTES_MAX, WRITE_BYTES_MAX).await?;
        let points: Upsert = parse(&body)?;
        drop(body);
        upsert::put(app.search()?, &context, (&name, version.as_deref()), points).await?;
        Ok(UpdateResult::DONE)
    })
    .await
}

/// Returns the version that made the vectors of a request, if its headers name it.
pub(super) fn named_version(headers: &HeaderMap) -> Option<String> {
    headers.get("x-model-version")?.to_str().ok().map(str::to_owned)
}

/// Deletes points.
#[utoipa::path(
    post, path = "/collections/{collection}/points/delete", tag = "qdrant", request_body = PointsSelector,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "They are deleted", body = Answer<UpdateResult>), QdrantErrors)
)]
pub(crate) async fn delete_points(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    answered(&app, async {
        let (_call, selector): (_, PointsSelector) = read(&app, request).await?;
        app.search()?.delete(&name, selector.convert()?).await?;
        Ok(UpdateResult::DONE)
    })
    .await
}

/// Returns a point with its payload and vector.
#[utoipa::path(
    get, path = "/collections/{collection}/points/{id}", tag = "qdrant",
    params(
        ("collection" = String, Path, description = "The collection's name or alias"),
        ("id" = String, Path, description = "The point's id")
    ),
    responses((status = 200, description = "The point", body = Answer<PointRecord>), QdrantErrors)
)]
pub(crate) async fn point(
    State(app): State<App>,
    Path((name, id)): Path<(String, String)>,
) -> Response<Body> {
    answered(&app, async {
        let search = app.search()?;
        let _call = search.enter()?;
        let (_, settings) = search.settings(&name).await?;
        let vector = vector_name(&settings);
        let all = Some(WithVector::All(true));
        let parts = Parts::new(None, all, (vector.as_deref(), true));
        let ids = vec![PointId::of_path(&id).into_document()?];
        let found = search.retrieve(&name, ids, (false, true, true)).await?.pop();
        let found = found.ok_or_else(|| {
            let message = format!("point `{id:.100}` does not exist in collection `{name}`");
            Fault::new(Class::Engine(ErrorKind::NotFound), message)
        })?;
        Ok(parts.record(found))
    })
    .await
}

/// Points to return.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetrieveRequest {
    ids: Vec<PointId>,
    /// Default: true.
    with_payload: Option<WithPayload>,
    /// Default: false.
    with_vector: Option<WithVector>,
    /// Ignored: collections are not sharded.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    shard_key: Option<Value>,
}

/// Returns the points with these ids that exist.
#[utoipa::path(
    post, path = "/collections/{collection}/points", tag = "qdrant", request_body = RetrieveRequest,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The points that exist", body = Answer<Vec<PointRecord>>), QdrantErrors)
)]
pub(crate) async fn retrieve_points(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    answered(&app, async {
        let (_call, RetrieveRequest { ids, with_payload, with_vector, .. }) =
            read(&app, request).await?;
        let search = app.search()?;
        let (_, settings) = search.settings(&name).await?;
        let vector = vector_name(&settings);
        let parts = Parts::new(with_payload, with_vector, (vector.as_deref(), true));
        let asked = (false, parts.payload(), parts.vector());
        let hits = search.retrieve(&name, into_documents(ids)?, asked).await?;
        let records: Vec<PointRecord> = hits.into_iter().map(|hit| parts.record(hit)).collect();
        Ok(records)
    })
    .await
}

/// A page of points to return.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScrollRequest {
    /// The first id.
    offset: Option<PointId>,
    /// Points to return. Default: 10.
    limit: Option<usize>,
    filter: Option<GivenFilter>,
    /// Default: true.
    with_payload: Option<WithPayload>,
    /// Default: false.
    with_vector: Option<WithVector>,
    /// Refused.
    #[schema(value_type = Option<Object>)]
    order_by: Option<Value>,
    /// Ignored: collections are not sharded.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    shard_key: Option<Value>,
}

/// A page of points in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScrollResult {
    points: Vec<PointRecord>,
    /// The first id of the next page; `null` if this is the last.
    next_page_offset: Option<PointId>,
}

/// Returns points in the order of their ids.
#[utoipa::path(
    post, path = "/collections/{collection}/points/scroll", tag = "qdrant", request_body = ScrollRequest,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "A page of points", body = Answer<ScrollResult>), QdrantErrors)
)]
pub(crate) async fn scroll_points(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    answered(&app, async {
        let (
            _call,
            ScrollRequest { offset, limit, filter, with_payload, with_vector, order_by, .. },
        ) = read(&app, request).await?;
        if order_by.is_some() {
            return Err(wrong("`order_by` is not supported; points are in the order of their ids"));
        }
        let search = app.search()?;
        let (_, settings) = search.settings(&name).await?;
        let vector = vector_name(&settings);
        let parts = Parts::new(with_payload, with_vector, (vector.as_deref(), true));
        let from = offset.map(PointId::into_document).transpose()?;
        let limit = limit_of(limit, PAGE)?;
        let asked = (false, parts.payload(), parts.vector());
        let filter = filter::convert(filter)?;
        let (hits, next) = search.scroll(&name, filter, (from, limit), asked).await?;
        let result = ScrollResult {
            points: hits.into_iter().map(|hit| parts.record(hit)).collect(),
            next_page_offset: next.map(PointId::from),
        };
        Ok(result)
    })
    .await
}

/// Checks a limit.
///
/// # Errors
/// It is 0 or too large.
pub(super) fn limit_of(limit: Option<usize>, default: usize) -> Result<usize, Fault> {
    match limit.unwrap_or(default) {
        limit @ 1..=HITS_MAX => Ok(limit),
        limit => Err(wrong(format!("`limit` is {limit}, 1 to {HITS_MAX} are allowed"))),
    }
}

/// Points to count.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CountRequest {
    filter: Option<GivenFilter>,
    /// Ignored: counts are always exact.
    #[expect(dead_code, reason = "accepted, and changes no result")]
    exact: Option<bool>,
    /// Ignored: collections are not sharded.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    shard_key: Option<Value>,
}

/// A number of points.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CountResult {
    count: u64,
}

/// Counts points.
#[utoipa::path(
    post, path = "/collections/{collection}/points/count", tag = "qdrant", request_body = CountRequest,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "Their number", body = Answer<CountResult>), QdrantErrors)
)]
pub(crate) async fn count_points(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    answered(&app, async {
        let (_call, CountRequest { filter, .. }) = read(&app, request).await?;
        let count = app.search()?.count(&name, filter::convert(filter)?).await?;
        Ok(CountResult { count })
    })
    .await
}
