//! `/points/query/groups`: the nearest points by the value of a payload field.

use std::time::Instant;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{Request, Response},
};
use onnxd_engine::RequestContext;
use onnxd_proto::search::{HITS_MAX, Hit};
use onnxd_search::{Found, SearchRequest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    api::{
        app::App,
        error::Fault,
        qdrant::{
            error::{Answer, QdrantErrors, body_of, respond, wrong},
            filter::GivenFilter,
            payloads::{ScoredPoint, WithPayload, WithVector},
            points::{limit_of, named_version},
            queries::{Target, with_headers},
            query::{Asked, QueryRequest},
            settings::vector_name,
            vectors::Given,
        },
        request::{context, parse},
    },
    transport::bodies::read_body,
};

/// Groups, and points of each, if the request names no numbers, as in Qdrant.
const GROUPS: usize = 10;
const GROUP_SIZE: usize = 3;
/// How many points are read first, for each that is asked for. Then ever more, until the groups are
/// full.
const READ_FIRST: usize = 4;

/// A query whose points are grouped.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupsRequest {
    /// A vector, `{"text": …, "model": …}` or an id; also as `{"nearest": …}`.
    query: Given,
    /// The payload field whose values are the groups. A list belongs to each of its values.
    group_by: String,
    /// Groups to return. Default: 10.
    limit: Option<usize>,
    /// Points of each group. Default: 3.
    group_size: Option<usize>,
    /// The name of the collection's vector.
    using: Option<String>,
    filter: Option<GivenFilter>,
    /// Ignored: searches are exact.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    params: Option<Value>,
    score_threshold: Option<f32>,
    /// Default: false.
    with_payload: Option<WithPayload>,
    /// Default: false.
    with_vector: Option<WithVector>,
    /// Ignored: collections are not sharded.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    shard_key: Option<Value>,
}

/// The groups, the best first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupsResult {
    groups: Vec<PointGroup>,
}

/// A group.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PointGroup {
    /// The value that its points share: a text or an integer.
    id: Value,
    /// The nearest points, the best first.
    hits: Vec<ScoredPoint>,
}

/// Embeds the query and finds the nearest points by the value of a payload field.
#[utoipa::path(
    post, path = "/collections/{collection}/points/query/groups", tag = "qdrant", request_body = GroupsRequest,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The groups with the nearest points, the best first", body = Answer<GroupsResult>), QdrantErrors)
)]
pub(crate) async fn query_groups(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    respond(try_groups(&app, &name, request)).await
}

async fn try_groups(
    app: &App,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let started = Instant::now();
    let context = context(request.headers())?;
    let version = named_version(request.headers());
    let search = app.search()?;
    let _call = search.enter()?;
    let body = read_body(app.engine.memory(), request).await?;
    let request: GroupsRequest = parse(&body)?;
    let (limit, size) =
        (limit_of(request.limit, GROUPS)?, request.group_size.unwrap_or(GROUP_SIZE));
    if size == 0 || limit.saturating_mul(size) > HITS_MAX {
        return Err(wrong(format!(
            "`group_size` is {size} and `limit` {limit}; their product must be 1 to {HITS_MAX}"
        )));
    }
    let (collection, settings) = search.settings(name).await?;
    let vector = vector_name(&settings);
    let mut query = QueryRequest::nearest(request.query, request.using);
    query.filter = request.filter;
    query.score_threshold = request.score_threshold;
    query.with_payload = request.with_payload;
    query.with_vector = request.with_vector;
    let (asked, parts) = query.interpret(vector.as_deref(), version.as_deref())?;
    let Asked::Nearest { request: query, model, diversity: None } = asked else {
        return Err(wrong("groups need a query without `mmr`"));
    };
    let target =
        Target { search, engine: &app.engine, collection: &collection, settings: &settings };
    let groups = Groups { by: &request.group_by, limit, size };
    target.check_model(model.as_deref())?;
    let (groups, found) = groups.find(&target, &context, *query).await?;
    let version = found.as_ref().map_or("", |found| &found.version);
    let group = |(id, hits): (Value, Vec<Hit>)| {
        target.note_shown(version, &hits, &parts);
        PointGroup { id, hits: hits.into_iter().map(|hit| parts.scored(hit)).collect() }
    };
    let groups = groups.into_iter().map(group).collect();
    let body = body_of(app.engine.memory(), started, GroupsResult { groups })?;
    Ok(with_headers(&app.engine, &settings, found.as_slice(), body))
}

/// Which groups are asked for.
struct Groups<'a> {
    by: &'a str,
    limit: usize,
    size: usize,
}

/// The points of each value, in the order of the best.
type Filled = Vec<(Value, Vec<Hit>)>;

impl Groups<'_> {
    /// Searches for ever more points until the groups are full or there are no more.
    async fn find(
        &self,
        target: &Target<'_>,
        context: &RequestContext,
        mut query: SearchRequest,
    ) -> Result<(Filled, Option<Found>), Fault> {
        query.shown.payload = true;
        query.limit = (self.limit * self.size * READ_FIRST).min(HITS_MAX);
        loop {
            let found = target.nearest(context, std::slice::from_ref(&query)).await?.pop();
            let Some(mut found) = found else { return Ok((Vec::new(), None)) };
            let hits = std::mem::take(&mut found.hits);
            let is_all = hits.len() < query.limit || query.limit == HITS_MAX;
            let groups = self.fill(hits);
            let is_full = groups.len() == self.limit
                && groups.iter().all(|(_, hits)| hits.len() == self.size);
            if is_all || is_full {
                return Ok((groups, Some(found)));
            }
            query.limit = (query.limit * 8).min(HITS_MAX);
        }
    }

    fn fill(&self, hits: Vec<Hit>) -> Filled {
        let mut groups: Filled = Vec::new();
        for hit in hits {
            for value in values(&hit, self.by) {
                let at = groups.iter().position(|(id, _)| *id == value);
                match at {
                    Some(at) if groups[at].1.len() < self.size => groups[at].1.push(hit.clone()),
                    None if groups.len() < self.limit => groups.push((value, vec![hit.clone()])),
                    _ => {}
                }
            }
        }
        groups
    }
}

/// Returns the texts and integers of a payload field.
fn values(hit: &Hit, path: &str) -> Vec<Value> {
    // Never fails: the index stores nothing but objects.
    let payload = hit.payload.as_deref().and_then(|payload| serde_json::from_str(payload).ok());
    let payload: Value = payload.unwrap_or_default();
    let nested = || path.split('.').try_fold(&payload, |value, name| value.get(name));
    let all = match payload.get(path).or_else(nested) {
        Some(Value::Array(elements)) => elements.clone(),
        Some(value) => vec![value.clone()],
        None => Vec::new(),
    };
    let mut kept: Vec<Value> = Vec::new();
    for value in all {
        if (value.is_string() || value.is_i64() || value.is_u64()) && !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use onnxd_proto::search::DocumentId;
    use serde_json::json;

    use super::*;

    #[test]
    fn points_are_grouped_in_the_order_of_the_best() {
        let hit = |(id, payload): (u64, Value)| Hit {
            id: DocumentId::Number(id),
            score: 1.0,
            text: None,
            payload: Some(payload.to_string()),
            vector: None,
        };
        let hits = [
            (1, json!({"a": {"b": "x"}})),
            (2, json!({"a": {"b": ["y", "x", "y"]}})),
            (3, json!({"a": {"b": 1.5}})),
            (4, json!({})),
            (5, json!({"a.b": 7})),
            (6, json!({"a": {"b": "x"}})),
            (7, json!({"a": {"b": "z"}})),
        ];
        let hits: Vec<Hit> = hits.into_iter().map(hit).collect();
        let groups = Groups { by: "a.b", limit: 3, size: 2 }.fill(hits);
        let numbers = |hits: &Vec<Hit>| -> Vec<DocumentId> {
            hits.iter().map(|hit| hit.id.clone()).collect()
        };
        let groups: Vec<_> = groups.iter().map(|(id, hits)| (id.clone(), numbers(hits))).collect();
        let ids = |ids: &[u64]| ids.iter().copied().map(DocumentId::Number).collect::<Vec<_>>();
        let expected = [(json!("x"), ids(&[1, 2])), (json!("y"), ids(&[2])), (json!(7), ids(&[5]))];
        assert_eq!(groups, expected);
    }
}
