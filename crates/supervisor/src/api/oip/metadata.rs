//! Server and model metadata and statistics, for both transports of the protocol.

use std::collections::BTreeMap;

use onnxd_engine::{
    Engine, EngineError, RequestContext,
    engine::{ALL_TASKS, signature::signature},
    models::registry::Model,
};
use onnxd_proto::domain::{Facts, Guess, Signature};
use serde::Serialize;
use utoipa::ToSchema;

/// Protocol extensions that the server supports.
pub(crate) const EXTENSIONS: [&str; 4] =
    ["binary_tensor_data", "model_configuration", "model_repository", "statistics"];
/// The protocol's name for ONNX models.
pub(crate) const PLATFORM: &str = "onnx_onnxv1";
/// The server's name.
pub(crate) const NAME: &str = "onnxd";

/// Metadata of a model in the protocol's terms.
#[derive(Clone, Debug)]
pub(crate) struct ModelMetadata {
    pub name: String,
    /// The serving generation.
    pub version: String,
    pub signature: Signature,
    /// How the model is run.
    pub properties: BTreeMap<String, String>,
}

impl ModelMetadata {
    /// Returns the metadata of a model, loading it first if it was never used.
    ///
    /// # Errors
    /// The model is unknown, does not serve this generation, or failed to load.
    pub(crate) async fn loaded(
        engine: &Engine,
        name: &str,
        version: &str,
    ) -> Result<Self, EngineError> {
        let model = engine.find_version(name, version)?;
        engine.ready(&RequestContext::new(), model, &ALL_TASKS).await?;
        engine.find_version(name, version)?;
        let (generation, record) = model.serving().ok_or(EngineError::NotLoaded)?;
        Ok(Self {
            name: model.name.to_string(),
            version: generation.to_string(),
            signature: signature(&record.facts),
            properties: properties(&record.facts),
        })
    }
}

/// Describes how a model is run. Leaves out empty properties.
fn properties(facts: &Facts) -> BTreeMap<String, String> {
    let switches: Vec<&str> = facts.switches.iter().map(|switch| switch.name.as_str()).collect();
    let guess = |Guess { key, value, reason }: &Guess| format!("{key} = {value}: {reason}");
    let guesses: Vec<String> = facts.guesses.iter().map(guess).collect();
    let length = Some(facts.max_tokens).filter(|tokens| *tokens > 0);
    let shortened = facts.shortened.as_ref().map(|shortened| {
        format!("declared maximum of {} tokens: {}", shortened.declared_tokens, shortened.reason)
    });
    let all = [
        ("task", facts.task.as_str().to_owned()),
        ("file", facts.file.clone()),
        ("inputs", facts.inputs.join(", ")),
        ("pipeline", facts.pipeline.join(" -> ")),
        ("labels", facts.labels.join(", ")),
        ("prompts", facts.prompts.join(", ")),
        ("switches", switches.join(", ")),
        ("max_input_length", length.map(|tokens| tokens.to_string()).unwrap_or_default()),
        ("shortened", shortened.unwrap_or_default()),
        ("guesses", guesses.join("; ")),
    ];
    let present = all.into_iter().filter(|(_, value)| !value.is_empty());
    present.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Statistics of one model, in Triton's terms.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModelStatistics {
    pub name: String,
    /// The serving generation.
    pub version: String,
    /// Items answered.
    pub inference_count: u64,
    /// Micro-batches run.
    pub execution_count: u64,
    pub inference_stats: InferenceStatistics,
    pub batch_stats: Vec<BatchStatistics>,
}

/// A count and a total duration.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct Duration {
    pub count: u64,
    /// Total in nanoseconds.
    pub ns: u64,
}

/// Durations by phase.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct InferenceStatistics {
    pub success: Duration,
    pub fail: Duration,
    /// Waiting for a worker.
    pub queue: Duration,
    /// Tokenizing.
    pub compute_input: Duration,
    /// ONNX Runtime.
    pub compute_infer: Duration,
    pub compute_output: Duration,
    pub cache_hit: Duration,
    pub cache_miss: Duration,
}

/// Always empty: nothing is counted by batch size.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct BatchStatistics {
    pub batch_size: u64,
}

impl ModelStatistics {
    /// Returns the statistics since the server started.
    pub(crate) fn collect(engine: &Engine, model: &Model) -> Self {
        let metrics = engine.metrics().model(model.slot);
        let answered = metrics.answered();
        let [queue, tokenize, infer] =
            // The metrics count microseconds.
            metrics.phases().map(|(count, micros)| Duration { count, ns: micros.saturating_mul(1000) });
        let success = Duration { count: answered, ns: queue.ns + tokenize.ns + infer.ns };
        Self {
            name: model.name.to_string(),
            version: model
                .serving()
                .map(|(generation, _)| generation.to_string())
                .unwrap_or_default(),
            inference_count: answered,
            execution_count: infer.count,
            inference_stats: InferenceStatistics {
                success,
                queue,
                compute_input: tokenize,
                compute_infer: infer,
                ..InferenceStatistics::default()
            },
            batch_stats: Vec::new(),
        }
    }
}
