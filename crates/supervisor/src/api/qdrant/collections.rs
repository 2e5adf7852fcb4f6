//! `/collections`: lists, creates, changes, describes and deletes collections.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{Request, Response},
};
use onnxd_engine::Engine;
use onnxd_proto::search::CollectionInfo;
use onnxd_search::{SearchError, SearchErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::api::{
    app::App,
    error::Fault,
    qdrant::{
        error::{Answer, QdrantErrors, answered, read, wrong},
        settings::{self, GivenDistance, VectorsConfig},
    },
};

/// A new collection. Settings of storage and indexing are accepted and ignored, since no result
/// depends on them.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct CreateCollection {
    vectors: Option<VectorsConfig>,
    /// `model`, `text` (the payload field that holds the text), `document_prompt`, `query_prompt`
    /// and `dimensions`, and the client's own values.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// Refused unless empty.
    #[schema(value_type = Option<Object>)]
    sparse_vectors: Option<Map<String, Value>>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Map<String, Value>,
}

/// A change of a collection.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct UpdateCollection {
    /// Merged with the existing metadata; `null` removes a key.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// Refused unless empty.
    #[schema(value_type = Option<Object>)]
    sparse_vectors: Option<Map<String, Value>>,
    /// Ignored: only settings of storage and indexing can be changed.
    #[schema(value_type = Option<Object>)]
    #[expect(dead_code, reason = "accepted, and changes no result")]
    vectors: Option<Value>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Map<String, Value>,
}

/// Settings of storage and indexing, which change no result.
const IGNORED: [&str; 13] = [
    "params",
    "shard_number",
    "sharding_method",
    "replication_factor",
    "write_consistency_factor",
    "on_disk_payload",
    "payload",
    "id_tracker",
    "hnsw_config",
    "wal_config",
    "optimizers_config",
    "quantization_config",
    "strict_mode_config",
];

/// The names of all collections.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CollectionNames {
    collections: Vec<CollectionName>,
}

/// The name of a collection.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CollectionName {
    name: String,
}

/// Whether a collection exists.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CollectionExistence {
    exists: bool,
}

/// A collection.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CollectionDescription {
    /// "green", or "red" if the collection's files are damaged.
    status: &'static str,
    optimizer_status: OptimizerStatus,
    /// `null` if the files are damaged.
    points_count: Option<u64>,
    /// Points with a vector of the version that serves. `null` if the files are damaged.
    indexed_vectors_count: Option<u64>,
    segments_count: u64,
    config: CollectionConfig,
    /// Always empty: every field can be filtered by.
    #[schema(value_type = Object)]
    payload_schema: Map<String, Value>,
}

/// Whether a collection can be used.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QdrantOptimizerStatus)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OptimizerStatus {
    Ok,
    /// Why its files cannot be used, and what to do.
    Error(String),
}

/// The configuration of a collection. Settings of storage and indexing are Qdrant's defaults.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CollectionConfig {
    params: CollectionParams,
    #[schema(value_type = Object)]
    hnsw_config: Value,
    #[schema(value_type = Object)]
    optimizer_config: Value,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// The parameters of a collection.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CollectionParams {
    /// The vector, by its name if it has one.
    #[schema(value_type = Object)]
    vectors: Value,
    shard_number: u32,
    replication_factor: u32,
    write_consistency_factor: u32,
    on_disk_payload: bool,
}

impl CollectionDescription {
    fn new(engine: &Engine, info: &CollectionInfo) -> Self {
        let settings = &info.settings;
        let model = settings.model.as_deref().and_then(|model| engine.find(Some(model)).ok());
        let serving = model.and_then(|model| model.serving());
        let own = serving.as_ref().map(|(_, record)| record.facts.dimension);
        let size = settings.dimensions.or(own).or(settings.declared_dimension).unwrap_or(0);
        let distance = GivenDistance::from(settings.distance);
        let vector = json!({ "size": size, "distance": distance });
        let vectors = match settings::vector_name(settings) {
            None => vector,
            Some(name) => json!({ name: vector }),
        };
        let serves =
            |version: &str| serving.as_ref().is_some_and(|(_, record)| record.version == version);
        let indexed = info.versions.iter().find(|version| serves(&version.version));
        let indexed = indexed.map_or(0, |version| version.documents);
        let (status, optimizer_status) = match &info.damaged {
            None => ("green", OptimizerStatus::Ok),
            Some(reason) => ("red", OptimizerStatus::Error(reason.clone())),
        };
        let is_known = info.damaged.is_none();
        Self {
            status,
            optimizer_status,
            points_count: is_known.then_some(info.documents),
            indexed_vectors_count: is_known.then_some(indexed),
            segments_count: 1,
            config: CollectionConfig {
                params: CollectionParams {
                    vectors,
                    shard_number: 1,
                    replication_factor: 1,
                    write_consistency_factor: 1,
                    on_disk_payload: true,
                },
                hnsw_config: json!({"m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "max_indexing_threads": 0, "on_disk": false}),
                optimizer_config: json!({"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0, "flush_interval_sec": 5}),
                metadata: settings::metadata(settings),
            },
            payload_schema: Map::new(),
        }
    }
}

/// Lists all collections.
#[utoipa::path(
    get, path = "/collections", tag = "qdrant",
    responses((status = 200, description = "All collections", body = Answer<CollectionNames>), QdrantErrors)
)]
pub(crate) async fn collections(State(app): State<App>) -> Response<Body> {
    answered(&app, async {
        let all = app.search()?.names().await?;
        let collections = all.into_iter().map(|known| CollectionName { name: known.name });
        let collections = collections.collect();
        Ok(CollectionNames { collections })
    })
    .await
}

/// Returns a collection.
#[utoipa::path(
    get, path = "/collections/{collection}", tag = "qdrant",
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "The collection", body = Answer<CollectionDescription>), QdrantErrors)
)]
pub(crate) async fn collection(State(app): State<App>, Path(name): Path<String>) -> Response<Body> {
    answered(&app, async {
        let info = app.search()?.collection(&name).await?;
        let described = CollectionDescription::new(&app.engine, &info);
        Ok(described)
    })
    .await
}

/// Returns whether a collection exists.
#[utoipa::path(
    get, path = "/collections/{collection}/exists", tag = "qdrant",
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "Whether it exists", body = Answer<CollectionExistence>), QdrantErrors)
)]
pub(crate) async fn collection_exists(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Response<Body> {
    answered(&app, async {
        let exists = found(app.search()?.settings(&name).await)?;
        Ok(CollectionExistence { exists })
    })
    .await
}

/// Creates a collection.
#[utoipa::path(
    put, path = "/collections/{collection}", tag = "qdrant", request_body = CreateCollection,
    params(("collection" = String, Path, description = "The collection's name")),
    responses((status = 200, description = "It is created", body = Answer<bool>), QdrantErrors)
)]
pub(crate) async fn create_collection(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    answered(&app, async {
        let (_call, CreateCollection { vectors, metadata, sparse_vectors, others }) =
            read(&app, request).await?;
        refuse_others(sparse_vectors.as_ref(), &others)?;
        let settings = settings::new(vectors, metadata.unwrap_or_default())?;
        app.search()?.create(&name, settings).await?;
        Ok(true)
    })
    .await
}

/// Changes the metadata of a collection.
#[utoipa::path(
    patch, path = "/collections/{collection}", tag = "qdrant", request_body = UpdateCollection,
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "It is changed", body = Answer<bool>), QdrantErrors)
)]
pub(crate) async fn update_collection(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    answered(&app, async {
        let (_call, UpdateCollection { metadata, sparse_vectors, others, .. }) =
            read(&app, request).await?;
        refuse_others(sparse_vectors.as_ref(), &others)?;
        let search = app.search()?;
        let (name, settings) = search.settings(&name).await?;
        if let Some(changes) = metadata {
            search.configure(&name, settings::merged(settings, changes)?).await?;
        }
        Ok(true)
    })
    .await
}

/// Deletes a collection with its points and aliases.
#[utoipa::path(
    delete, path = "/collections/{collection}", tag = "qdrant",
    params(("collection" = String, Path, description = "The collection's name")),
    responses((status = 200, description = "Whether it existed", body = Answer<bool>), QdrantErrors)
)]
pub(crate) async fn delete_collection(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Response<Body> {
    answered(&app, async { found(app.search()?.remove(&name).await) }).await
}

/// Returns whether a call found its collection.
fn found<T>(result: Result<T, SearchError>) -> Result<bool, Fault> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == SearchErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn refuse_others(
    sparse: Option<&Map<String, Value>>,
    others: &Map<String, Value>,
) -> Result<(), Fault> {
    if sparse.is_some_and(|sparse| !sparse.is_empty()) {
        return Err(wrong(
            "sparse vectors are not supported; every collection can be searched by words too: set `hybrid`: true in the query",
        ));
    }
    match others.keys().find(|name| !IGNORED.contains(&name.as_str())) {
        Some(name) => Err(wrong(format!("unknown field `{name:.100}` of a collection"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_collection_is_in_qdrants_form() {
        let json = |status: OptimizerStatus| json!(status);
        assert_eq!(json(OptimizerStatus::Ok), json!("ok"));
        let error = json(OptimizerStatus::Error("damaged".into()));
        assert_eq!(error, json!({"error": "damaged"}));
    }
}
