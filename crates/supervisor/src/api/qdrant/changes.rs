//! Changes of payloads, several changes in one request, and indexes of payload fields.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{Request, Response},
};
use onnxd_engine::RequestContext;
use onnxd_proto::search::{PayloadChange, Selection};
use onnxd_search::Search;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    api::{
        app::App,
        error::Fault,
        qdrant::{
            error::{Answer, QdrantErrors, answered, read, wrong},
            filter::GivenFilter,
            ids::PointId,
            points::{
                PointsSelector, UNCHARGED_BYTES_MAX, UpdateResult, WRITE_BYTES_MAX, named_version,
                selection,
            },
            upsert::{self, Upsert},
        },
        request::{context, parse},
    },
    transport::bodies::read_charged,
};

/// Fields of payloads to set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetPayload {
    #[schema(value_type = Object)]
    payload: Map<String, Value>,
    points: Option<Vec<PointId>>,
    filter: Option<GivenFilter>,
    /// Refused.
    key: Option<String>,
    /// Ignored: collections are not sharded.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    shard_key: Option<Value>,
}

/// Fields of payloads to remove.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeletePayload {
    keys: Vec<String>,
    points: Option<Vec<PointId>>,
    filter: Option<GivenFilter>,
    /// Ignored: collections are not sharded.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    shard_key: Option<Value>,
}

/// Several changes, which are applied in order. If one fails, those before it stay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operations {
    operations: Vec<Operation>,
}

/// A change of points.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = QdrantOperation)]
#[serde(rename_all = "snake_case")]
enum Operation {
    /// Adds or replaces points.
    Upsert(Upsert),
    /// Deletes points.
    Delete(PointsSelector),
    /// Sets fields of payloads.
    SetPayload(SetPayload),
    /// Replaces payloads.
    OverwritePayload(SetPayload),
    /// Removes fields of payloads.
    DeletePayload(DeletePayload),
    /// Removes payloads.
    ClearPayload(PointsSelector),
}

impl SetPayload {
    fn convert(self, replaces: bool) -> Result<(Selection, PayloadChange), Fault> {
        if self.key.is_some() {
            return Err(wrong(
                "`key` is not supported; set the whole field at the top of the payload",
            ));
        }
        let payload = Value::Object(self.payload).to_string();
        let change = match replaces {
            true => PayloadChange::Replace(payload),
            false => PayloadChange::Set(payload),
        };
        Ok((selection(self.points, self.filter)?, change))
    }
}

impl DeletePayload {
    fn convert(self) -> Result<(Selection, PayloadChange), Fault> {
        Ok((selection(self.points, self.filter)?, PayloadChange::Remove(self.keys)))
    }
}

fn cleared() -> PayloadChange {
    PayloadChange::Replace("{}".to_owned())
}

/// Sets fields of payloads and leaves the others.
#[utoipa::path(
    post, path = "/collections/{collection}/points/payload", tag = "qdrant", request_body = SetPayload,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The fields are set", body = Answer<UpdateResult>), QdrantErrors)
)]
pub(crate) async fn set_payload(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let change = |body: SetPayload| body.convert(false);
    answered(&app, change_payload(&app, &name, request, change)).await
}

/// Replaces payloads.
#[utoipa::path(
    put, path = "/collections/{collection}/points/payload", tag = "qdrant", request_body = SetPayload,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The payloads are replaced", body = Answer<UpdateResult>), QdrantErrors)
)]
pub(crate) async fn overwrite_payload(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let change = |body: SetPayload| body.convert(true);
    answered(&app, change_payload(&app, &name, request, change)).await
}

/// Removes fields of payloads.
#[utoipa::path(
    post, path = "/collections/{collection}/points/payload/delete", tag = "qdrant", request_body = DeletePayload,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The fields are removed", body = Answer<UpdateResult>), QdrantErrors)
)]
pub(crate) async fn delete_payload(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    answered(&app, change_payload(&app, &name, request, DeletePayload::convert)).await
}

/// Removes payloads.
#[utoipa::path(
    post, path = "/collections/{collection}/points/payload/clear", tag = "qdrant", request_body = PointsSelector,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The payloads are removed", body = Answer<UpdateResult>), QdrantErrors)
)]
pub(crate) async fn clear_payload(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let change = |body: PointsSelector| Ok((body.convert()?, cleared()));
    answered(&app, change_payload(&app, &name, request, change)).await
}

async fn change_payload<T: serde::de::DeserializeOwned>(
    app: &App,
    collection: &str,
    request: Request<Body>,
    change: impl FnOnce(T) -> Result<(Selection, PayloadChange), Fault>,
) -> Result<UpdateResult, Fault> {
    let (_call, body) = read(app, request).await?;
    let (which, change) = change(body)?;
    app.search()?.change_payload(collection, which, change).await?;
    Ok(UpdateResult::DONE)
}

/// Applies several changes in order. If one fails, those before it stay.
#[utoipa::path(
    post, path = "/collections/{collection}/points/batch", tag = "qdrant", request_body = Operations,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "All are applied", body = Answer<Vec<UpdateResult>>), QdrantErrors)
)]
pub(crate) async fn batch_update(
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
        let Operations { operations } = parse(&body)?;
        drop(body);
        let mut results = Vec::with_capacity(operations.len());
        for operation in operations {
            let target = (name.as_str(), version.as_deref());
            apply(app.search()?, &context, target, operation).await.map_err(|mut fault| {
                let done = results.len();
                fault.message = format!("operation {done} (from 0): {}", fault.message);
                fault
            })?;
            results.push(UpdateResult::DONE);
        }
        Ok(results)
    })
    .await
}

async fn apply(
    search: &Search,
    context: &RequestContext,
    (name, version): (&str, Option<&str>),
    operation: Operation,
) -> Result<(), Fault> {
    let (which, change) = match operation {
        Operation::Upsert(points) => {
            return upsert::put(search, context, (name, version), points).await;
        }
        Operation::Delete(points) => {
            search.delete(name, points.convert()?).await?;
            return Ok(());
        }
        Operation::SetPayload(fields) => fields.convert(false)?,
        Operation::OverwritePayload(fields) => fields.convert(true)?,
        Operation::DeletePayload(fields) => fields.convert()?,
        Operation::ClearPayload(points) => (points.convert()?, cleared()),
    };
    search.change_payload(name, which, change).await?;
    Ok(())
}

/// An index of a payload field.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateIndex {
    #[expect(dead_code, reason = "accepted: every field can be filtered by")]
    field_name: String,
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted: every field can be filtered by")]
    field_schema: Option<Value>,
}

/// Does nothing: every field can be filtered by, without an index.
#[utoipa::path(
    put, path = "/collections/{collection}/index", tag = "qdrant", request_body = CreateIndex,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The field can be filtered by", body = Answer<UpdateResult>), QdrantErrors)
)]
pub(crate) async fn create_index(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    answered(&app, async {
        let (_call, _): (_, CreateIndex) = read(&app, request).await?;
        app.search()?.settings(&name).await?;
        Ok(UpdateResult::DONE)
    })
    .await
}

/// Does nothing: every field can be filtered by, without an index.
#[utoipa::path(
    delete, path = "/collections/{collection}/index/{field}", tag = "qdrant",
    params(
        ("collection" = String, Path, description = "The collection's name or alias"),
        ("field" = String, Path, description = "The path of the field")
    ),
    responses((status = 200, description = "Nothing changed", body = Answer<UpdateResult>), QdrantErrors)
)]
pub(crate) async fn delete_index(
    State(app): State<App>,
    Path((name, _)): Path<(String, String)>,
) -> Response<Body> {
    answered(&app, async {
        app.search()?.settings(&name).await?;
        Ok(UpdateResult::DONE)
    })
    .await
}
