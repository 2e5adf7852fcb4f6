//! `/info`: what is served, and within which limits.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::{Query, State},
    http::Response,
    response::IntoResponse,
};
use onnxd_proto::domain::{Facts, Pooling, Task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::api::{
    error::{ApiError, Contract, TeiErrors, axum_json},
    inference::find_model,
    router::{App, respond},
};

/// The query of `GET /info`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct InfoQuery {
    /// Which of several models; the first where none is named.
    model: Option<String>,
}

/// What is served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Info {
    /// Where its versions come from.
    model_id: String,
    /// The digest of the version that serves.
    model_sha: String,
    model_dtype: &'static str,
    served_model_name: String,
    /// What the model is for: `embedding`, `classifier`, `reranker` or `tensor`.
    model_type: Value,
    max_concurrent_requests: usize,
    /// Tokens of the longest text.
    max_input_length: u32,
    max_batch_tokens: u64,
    max_batch_requests: Option<u64>,
    max_client_batch_size: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    version: &'static str,
    sha: &'static str,
    docker_label: Option<String>,
    /// The generation that serves.
    generation: u64,
    /// Components of one embedding, or labels.
    dimension: u32,
    /// Names of the prompts that may be put before a text.
    prompts: Vec<String>,
}

/// What is served, and within which limits.
#[utoipa::path(
    get, path = "/info", tag = "text-embeddings-inference", params(InfoQuery),
    responses((status = 200, description = "What is served", body = Info), TeiErrors)
)]
pub(crate) async fn info(State(app): State<App>, Query(query): Query<InfoQuery>) -> Response<Body> {
    respond(Contract::Tei, async { try_info(&app, query.model.as_deref()).await }).await
}

async fn try_info(app: &App, name: Option<&str>) -> Result<Response<Body>, ApiError> {
    let model = find_model(app, name)?;
    let all = [Task::Embed, Task::Classify, Task::Rerank, Task::Tensor];
    app.ready(model, &all, None).await?;
    let (generation, record) = model.serving().ok_or_else(ApiError::not_loaded)?;
    let client_batch = app.limits.client_batch;
    let info = Info {
        // The whole path is no client's business.
        model_id: model.source.last_name(),
        model_sha: record.version.clone(),
        model_dtype: "float32",
        served_model_name: model.name.to_string(),
        model_type: model_type(&record.facts),
        max_concurrent_requests: app.dispatch.items_max(),
        max_input_length: record.facts.max_tokens,
        max_batch_tokens: u64::from(record.facts.max_tokens) * client_batch as u64,
        max_batch_requests: None,
        max_client_batch_size: client_batch,
        auto_truncate: true,
        tokenization_workers: app.workers,
        version: env!("CARGO_PKG_VERSION"),
        sha: onnxd_proto::BUILD_ID,
        docker_label: None,
        generation,
        dimension: record.facts.dimension,
        prompts: record.facts.prompts.clone(),
    };
    Ok(axum_json(&json!(info)).into_response())
}

fn model_type(facts: &Facts) -> Value {
    let places = facts.labels.iter().enumerate();
    let id2label: BTreeMap<String, &String> =
        places.clone().map(|(place, label)| (place.to_string(), label)).collect();
    let label2id: BTreeMap<&String, usize> = places.map(|(place, label)| (label, place)).collect();
    let labels = json!({ "id2label": id2label, "label2id": label2id });
    match facts.task {
        Task::Embed => {
            let pooling = match facts.pooling {
                Pooling::Mean => "mean",
                Pooling::Cls => "cls",
                Pooling::LastToken => "last_token",
                Pooling::None => "none",
            };
            json!({ "embedding": { "pooling": pooling } })
        }
        Task::Classify => json!({ "classifier": labels }),
        Task::Rerank => json!({ "reranker": labels }),
        Task::Tensor => json!({ "tensor": {} }),
    }
}
