//! `/info`: the served model and the limits.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    extract::{Query, State},
    http::Response,
    response::IntoResponse,
};
use onnxd_engine::{RequestContext, engine::ALL_TASKS};
use onnxd_proto::domain::{Facts, Guess, Output, Shortened, SwitchFacts, Task, tensor::DataType};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::api::{
    app::App,
    error::{Fault, axum_json},
    tei::error::{TeiErrors, respond},
};

/// The query of `GET /info`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct InfoQuery {
    /// The model to use. Default: the first model.
    model: Option<String>,
}

/// A served model and the limits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Info {
    /// The last component of the model's source.
    model_id: String,
    /// The digest of the serving version.
    model_sha: String,
    model_dtype: &'static str,
    served_model_name: String,
    /// The kind of model: `embedding`, `multi_vector`, `classifier`, `token_classifier`, `reranker`
    /// or `tensor`.
    model_type: Value,
    max_concurrent_requests: usize,
    /// Maximum tokens of a text.
    max_input_length: u32,
    max_batch_tokens: u64,
    max_batch_requests: Option<u64>,
    max_client_batch_size: usize,
    auto_truncate: bool,
    tokenization_workers: usize,
    version: &'static str,
    sha: &'static str,
    docker_label: Option<String>,
    /// The serving generation.
    generation: u64,
    /// Components of one embedding, or the number of labels.
    dimension: u32,
    /// The task, in onnxd's terms.
    task: &'static str,
    /// Names of the prompts that can be prepended to a text.
    prompts: Vec<String>,
    /// Scalar inputs that a request may set, with the words for their values.
    #[schema(value_type = Vec<Value>)]
    switches: Vec<SwitchFacts>,
    /// The model's file within the version; empty for a model without a graph.
    file: String,
    /// The graph's inputs, as they are fed.
    inputs: Vec<String>,
    /// The steps from the graph's output to the response, in order.
    pipeline: Vec<String>,
    /// Assumptions made where the model's files are silent.
    #[schema(value_type = Vec<Value>)]
    guesses: Vec<Guess>,
    /// Set if the maximum text length is below what the model's files declare.
    #[schema(value_type = Option<Value>)]
    shortened: Option<Shortened>,
}

/// Returns the served model and the limits.
#[utoipa::path(
    get, path = "/info", tag = "text-embeddings-inference", params(InfoQuery),
    responses((status = 200, description = "The served model and the limits", body = Info), TeiErrors)
)]
pub(crate) async fn info(State(app): State<App>, Query(query): Query<InfoQuery>) -> Response<Body> {
    respond(try_info(&app, query.model.as_deref())).await
}

async fn try_info(app: &App, name: Option<&str>) -> Result<Response<Body>, Fault> {
    let model = app.engine.find(name)?;
    let (generation, record) = app.engine.ready(&RequestContext::new(), model, &ALL_TASKS).await?;
    let (client_batch, facts) = (app.client_batch, record.facts.clone());
    let info = Info {
        // Do not reveal the whole path to clients.
        model_id: model.source.last_name(),
        model_sha: record.version.clone(),
        model_dtype: record.facts.weights.map_or("unknown", dtype),
        served_model_name: model.name.to_string(),
        model_type: model_type(&record.facts),
        max_concurrent_requests: app.engine.items_max(),
        max_input_length: record.facts.max_tokens,
        max_batch_tokens: u64::from(record.facts.max_tokens) * client_batch as u64,
        max_batch_requests: None,
        max_client_batch_size: client_batch,
        auto_truncate: true,
        tokenization_workers: app.engine.workers(),
        version: env!("CARGO_PKG_VERSION"),
        sha: onnxd_proto::BUILD_ID,
        docker_label: None,
        generation,
        dimension: record.facts.output().row_len(),
        task: facts.task.as_str(),
        prompts: facts.prompts,
        switches: facts.switches,
        file: facts.file,
        inputs: facts.inputs,
        pipeline: facts.pipeline,
        guesses: facts.guesses,
        shortened: facts.shortened,
    };
    Ok(axum_json(&json!(info)).into_response())
}

fn model_type(facts: &Facts) -> Value {
    let indexed = facts.labels.iter().enumerate();
    let id2label: BTreeMap<String, &String> =
        indexed.clone().map(|(index, label)| (index.to_string(), label)).collect();
    let label2id: BTreeMap<&String, usize> = indexed.map(|(index, label)| (label, index)).collect();
    let labels = json!({ "id2label": id2label, "label2id": label2id });
    match facts.output() {
        Output::Dense { .. } => json!({ "embedding": { "pooling": facts.pooling.to_string() } }),
        // TEI's name, whatever the model's files call it.
        Output::Sparse { .. } => json!({ "embedding": { "pooling": "splade" } }),
        Output::MultiVector { dimension } => json!({ "multi_vector": { "dimension": dimension } }),
        // Clients call a different route for pairs than for labels.
        Output::Scores { .. } if facts.task == Task::Rerank => json!({ "reranker": labels }),
        Output::Scores { .. } => json!({ "classifier": labels }),
        Output::TokenScores { .. } => json!({ "token_classifier": labels }),
        Output::Tensors => json!({ "tensor": {} }),
    }
}

/// Returns text-embeddings-inference's name for the type of a model's weights.
fn dtype(weights: DataType) -> &'static str {
    match weights {
        DataType::Bool => "bool",
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::Uint8 => "uint8",
        DataType::Uint16 => "uint16",
        DataType::Uint32 => "uint32",
        DataType::Uint64 => "uint64",
        DataType::Fp16 => "float16",
        DataType::Bf16 => "bfloat16",
        DataType::Fp32 => "float32",
        DataType::Fp64 => "float64",
        DataType::Bytes => "string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_types_have_tei_names() {
        for (datatype, name) in [
            (DataType::Fp32, "float32"),
            (DataType::Fp16, "float16"),
            (DataType::Bf16, "bfloat16"),
            (DataType::Int8, "int8"),
        ] {
            assert_eq!(dtype(datatype), name);
        }
    }

    #[test]
    fn every_task_has_a_model_type() {
        for (task, kind) in [
            (Task::Embed, "embedding"),
            (Task::Sparse, "embedding"),
            (Task::MultiVector, "multi_vector"),
            (Task::TokenClassify, "token_classifier"),
            (Task::Classify, "classifier"),
            (Task::Rerank, "reranker"),
            (Task::Tensor, "tensor"),
        ] {
            assert!(model_type(&Facts::new(task)).get(kind).is_some(), "{kind}");
        }
    }
}
