//! Server and model metadata, readiness, configuration and statistics.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{Response, StatusCode},
    response::IntoResponse,
};
use onnxd_proto::domain::tensor::{DataType, TensorSpec};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::api::{
    app::App,
    error::{Fault, axum_json},
    oip::{
        metadata::{EXTENSIONS, ModelMetadata, ModelStatistics, NAME, PLATFORM},
        rest::error::{OipErrors, respond},
    },
};
use onnxd_engine::models::registry::Model;

/// Metadata of the server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: Vec<&'static str>,
}

/// Returns the server's name, version and extensions.
#[utoipa::path(
    get, path = "/v2", tag = "open-inference-protocol",
    responses((status = 200, description = "The server", body = ServerMetadata), OipErrors)
)]
pub(crate) async fn server() -> Response<Body> {
    let version = env!("CARGO_PKG_VERSION");
    let metadata = ServerMetadata { name: NAME, version, extensions: EXTENSIONS.to_vec() };
    axum_json(&json!(metadata)).into_response()
}

/// The names of all models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelNames {
    models: Vec<String>,
}

/// Lists the names of all models.
#[utoipa::path(
    get, path = "/v2/models", tag = "open-inference-protocol",
    responses((status = 200, description = "The names of all models", body = ModelNames), OipErrors)
)]
pub(crate) async fn models(State(app): State<App>) -> Response<Body> {
    let models = app.engine.models().iter().map(|model| model.name.to_string()).collect();
    axum_json(&json!(ModelNames { models })).into_response()
}

/// Metadata of a model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelJson {
    name: String,
    /// The serving generation.
    versions: Vec<String>,
    platform: &'static str,
    inputs: Vec<SpecJson>,
    outputs: Vec<SpecJson>,
    /// How the model is run.
    properties: BTreeMap<String, String>,
}

/// The name, type and shape of a tensor.
#[derive(Debug, Serialize, ToSchema)]
struct SpecJson {
    name: String,
    datatype: &'static str,
    /// -1 means any size.
    shape: Vec<i64>,
}

fn specs(specs: &[TensorSpec]) -> Vec<SpecJson> {
    let json = |spec: &TensorSpec| SpecJson {
        name: spec.name.clone(),
        datatype: spec.datatype.name(),
        shape: spec.shape.clone(),
    };
    specs.iter().map(json).collect()
}

/// Returns a model's inputs and outputs.
#[utoipa::path(
    get, path = "/v2/models/{model}", tag = "open-inference-protocol",
    params(("model" = String, Path, description = "The model's name")),
    responses((status = 200, description = "The model", body = ModelJson), OipErrors)
)]
pub(crate) async fn model(State(app): State<App>, Path(name): Path<String>) -> Response<Body> {
    respond(try_model(&app, &name, "")).await
}

/// Same, for one generation.
#[utoipa::path(
    get, path = "/v2/models/{model}/versions/{version}", tag = "open-inference-protocol",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("version" = String, Path, description = "The generation that must be serving"),
    ),
    responses((status = 200, description = "The model", body = ModelJson), OipErrors)
)]
pub(crate) async fn model_version(
    State(app): State<App>,
    Path((name, version)): Path<(String, String)>,
) -> Response<Body> {
    respond(try_model(&app, &name, &version)).await
}

async fn try_model(app: &App, name: &str, version: &str) -> Result<Response<Body>, Fault> {
    let metadata = ModelMetadata::loaded(&app.engine, name, version).await?;
    let model = ModelJson {
        name: metadata.name,
        versions: vec![metadata.version],
        platform: PLATFORM,
        inputs: specs(&metadata.signature.inputs),
        outputs: specs(&metadata.signature.outputs),
        properties: metadata.properties,
    };
    Ok(axum_json(&json!(model)).into_response())
}

/// Readiness of a model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelReady {
    name: String,
    ready: bool,
}

/// Reports whether a model answers requests. Does not load it.
#[utoipa::path(
    get, path = "/v2/models/{model}/ready", tag = "open-inference-protocol",
    params(("model" = String, Path, description = "The model's name")),
    responses(
        (status = 200, description = "The model is ready", body = ModelReady),
        (status = 503, description = "The model is not ready", body = ModelReady),
        OipErrors,
    )
)]
pub(crate) async fn ready(State(app): State<App>, Path(name): Path<String>) -> Response<Body> {
    respond(async { is_ready(&app, &name, "") }).await
}

/// Same, for one generation.
#[utoipa::path(
    get, path = "/v2/models/{model}/versions/{version}/ready", tag = "open-inference-protocol",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("version" = String, Path, description = "The generation that must be serving"),
    ),
    responses(
        (status = 200, description = "The model is ready", body = ModelReady),
        (status = 503, description = "The model is not ready", body = ModelReady),
        OipErrors,
    )
)]
pub(crate) async fn ready_version(
    State(app): State<App>,
    Path((name, version)): Path<(String, String)>,
) -> Response<Body> {
    respond(async { is_ready(&app, &name, &version) }).await
}

fn is_ready(app: &App, name: &str, version: &str) -> Result<Response<Body>, Fault> {
    let model = app.engine.find_version(name, version)?;
    let ready = app.engine.is_model_ready(model);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!(ModelReady { name: model.name.to_string(), ready });
    Ok((status, axum_json(&body)).into_response())
}

/// Returns Triton's name for a data type in model configurations.
fn triton_type(datatype: DataType) -> String {
    match datatype {
        DataType::Bytes => "TYPE_STRING".into(),
        datatype => format!("TYPE_{}", datatype.name()),
    }
}

/// Returns as much of a Triton model configuration as exists here.
#[utoipa::path(
    get, path = "/v2/models/{model}/config", tag = "open-inference-protocol",
    params(("model" = String, Path, description = "The model's name")),
    responses((status = 200, description = "The configuration", body = inline(serde_json::Map<String, Value>)), OipErrors)
)]
pub(crate) async fn config(State(app): State<App>, Path(name): Path<String>) -> Response<Body> {
    respond(try_config(&app, &name, "")).await
}

/// Same, for one generation.
#[utoipa::path(
    get, path = "/v2/models/{model}/versions/{version}/config", tag = "open-inference-protocol",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("version" = String, Path, description = "The generation that must be serving"),
    ),
    responses((status = 200, description = "The configuration", body = inline(serde_json::Map<String, Value>)), OipErrors)
)]
pub(crate) async fn config_version(
    State(app): State<App>,
    Path((name, version)): Path<(String, String)>,
) -> Response<Body> {
    respond(try_config(&app, &name, &version)).await
}

async fn try_config(app: &App, name: &str, version: &str) -> Result<Response<Body>, Fault> {
    let metadata = ModelMetadata::loaded(&app.engine, name, version).await?;
    let tensors = |specs: &[TensorSpec]| -> Value {
        let tensor = |spec: &TensorSpec| json!({ "name": spec.name, "data_type": triton_type(spec.datatype), "dims": spec.shape });
        specs.iter().map(tensor).collect()
    };
    let config = json!({
        "name": metadata.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        // Shapes include the batch axis.
        "max_batch_size": 0,
        "input": tensors(&metadata.signature.inputs),
        "output": tensors(&metadata.signature.outputs),
        "instance_group": [{ "name": metadata.name, "kind": "KIND_CPU", "count": app.engine.workers() }],
        "version_policy": { "latest": { "num_versions": 1 } },
    });
    Ok(axum_json(&config).into_response())
}

/// Statistics of models.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StatisticsJson {
    model_stats: Vec<ModelStatistics>,
}

/// Returns the statistics of all models.
#[utoipa::path(
    get, path = "/v2/models/stats", tag = "open-inference-protocol",
    responses((status = 200, description = "Statistics of all models", body = StatisticsJson), OipErrors)
)]
pub(crate) async fn all_statistics(State(app): State<App>) -> Response<Body> {
    let collect = |model: &std::sync::Arc<Model>| ModelStatistics::collect(&app.engine, model);
    let model_stats = app.engine.models().iter().map(collect).collect();
    axum_json(&json!(StatisticsJson { model_stats })).into_response()
}

/// Returns the statistics of a model.
#[utoipa::path(
    get, path = "/v2/models/{model}/stats", tag = "open-inference-protocol",
    params(("model" = String, Path, description = "The model's name")),
    responses((status = 200, description = "Statistics of the model", body = StatisticsJson), OipErrors)
)]
pub(crate) async fn statistics(State(app): State<App>, Path(name): Path<String>) -> Response<Body> {
    respond(async {
        let model = app.engine.find(Some(&name))?;
        let model_stats = vec![ModelStatistics::collect(&app.engine, model)];
        Ok(axum_json(&json!(StatisticsJson { model_stats })).into_response())
    })
    .await
}

/// Same, for one generation.
#[utoipa::path(
    get, path = "/v2/models/{model}/versions/{version}/stats", tag = "open-inference-protocol",
    params(
        ("model" = String, Path, description = "The model's name"),
        ("version" = String, Path, description = "The generation that must be serving"),
    ),
    responses((status = 200, description = "Statistics of the model", body = StatisticsJson), OipErrors)
)]
pub(crate) async fn statistics_version(
    State(app): State<App>,
    Path((name, version)): Path<(String, String)>,
) -> Response<Body> {
    respond(async {
        let model_stats =
            vec![ModelStatistics::collect(&app.engine, app.engine.find_version(&name, &version)?)];
        Ok(axum_json(&json!(StatisticsJson { model_stats })).into_response())
    })
    .await
}
