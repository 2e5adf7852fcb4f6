//! Runs inference for any protocol. HTTP and gRPC contracts, the watchdog and benchmarks are
//! ordinary callers: they look up a model, build a request, and render the answer or error
//! themselves. Nothing here knows a status code, a header or a message format.
//!
//! - [`context`]: a request's start time, timeout, priority and trace.
//! - [`texts`]: operations on texts that return vectors, tokens or texts: embed, tokenize, decode.
//! - [`labels`]: operations on texts that return scores and labels: classify, rerank, find
//!   entities.
//! - [`options`]: how texts are tokenized. [`items`] builds items of texts within limits.
//! - [`tensors`]: operations on named tensors, for models of every task. [`check`] enforces limits,
//!   and [`tensor_texts`] converts between texts and tensors.
//! - [`signature`]: a model's inputs and outputs as tensors.
//! - [`answer`]: answers and their origin.
//! - [`scores`]: turns raw outputs into numbers for clients; pure.
//! - [`candidates`]: embeds documents by versions that need not serve.
//! - [`readiness`]: whether the server and its models are ready.
//! - `issued`: which version made a vector that a client sends back.
//! - [`memory`]: the memory budget of large bodies. [`error`]: why a request failed.

pub mod answer;
pub mod candidates;
mod check;
pub mod context;
pub mod error;
mod issued;
mod items;
pub mod labels;
pub mod memory;
mod options;
mod readiness;
pub mod scores;
pub mod signature;
mod tensor_texts;
pub mod tensors;
pub mod texts;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use onnxd_proto::{
    domain::{Record, Task},
    generation::Generation,
};
use onnxd_telemetry::{metrics::Metrics, trace::TraceContext};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

use self::issued::Issued;
pub use self::{
    answer::{Answer, Origin},
    context::RequestContext,
    error::{EngineError, ErrorKind},
    memory::MemoryBudget,
};
use crate::{
    dispatch::{
        Event, Input, RequestTerms,
        gather::{Dispatch, GatherError},
        health::Health,
        worker,
    },
    models::{
        gate::Pass,
        registry::{Model, Registry},
        startup::Phase,
        update::Updater,
    },
};

/// Maximum characters of an unknown name that an error repeats.
const NAME_CHARACTERS_MAX: usize = 200;
/// Maximum characters of an unknown version that an error repeats.
const VERSION_CHARACTERS_MAX: usize = 40;
/// Every task, for calls on tensors and metadata, which accept any model.
pub const ALL_TASKS: [Task; 7] = Task::ALL;

/// Runs inference on the served models.
#[derive(Debug)]
pub struct Engine {
    parts: Parts,
    memory: MemoryBudget,
    /// Whether the server stops soon.
    closing: watch::Sender<bool>,
    issued: Issued,
}

/// The components of an engine.
#[derive(Debug)]
pub struct Parts {
    pub registry: Arc<Registry>,
    /// Submits requests to the dispatcher.
    pub dispatch: Dispatch,
    /// Loads models on first use.
    pub updater: Arc<Updater>,
    /// Whether workers are available.
    pub health: watch::Receiver<Health>,
    /// Counters of requests and models.
    pub metrics: Arc<Metrics>,
    /// The dispatcher's event channel, for probes.
    pub events: mpsc::Sender<Event>,
    /// The number of workers.
    pub workers: usize,
}

/// The dispatcher has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the dispatcher has stopped")]
pub struct DispatcherStopped;

impl Engine {
    /// Creates an engine whose large bodies share `memory`.
    pub fn new(parts: Parts, memory: MemoryBudget) -> Self {
        Self { parts, memory, closing: watch::Sender::new(false), issued: Issued::default() }
    }

    /// Returns all models. The first one answers requests that name none.
    pub fn models(&self) -> &[Arc<Model>] {
        self.parts.registry.models()
    }

    /// Returns the registry of served models, for callers that watch it.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.parts.registry
    }

    /// Returns the counters of requests and models.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.parts.metrics
    }

    /// Returns the memory budget of large bodies.
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Remembers from now on which version issued an embedding; see [`Engine::issuer`].
    pub fn remember_issued(&self) {
        self.issued.turn_on();
    }

    /// Notes that a version made vectors (little-endian f32) which a client gets from elsewhere than
    /// [`Engine::embed`].
    pub fn note_issued(&self, version: &str, vectors: &[Bytes]) {
        self.issued.remember(version, vectors.iter());
    }

    /// Returns the version that issued an embedding (little-endian f32) recently, if any did.
    pub fn issuer(&self, vector: &Bytes) -> Option<String> {
        self.issued.find(vector)
    }

    /// Returns the number of workers.
    pub fn workers(&self) -> usize {
        self.parts.workers
    }

    /// Returns how many items of one model may be queued or running at once.
    pub fn items_max(&self) -> usize {
        self.parts.dispatch.items_max()
    }

    /// Returns how many items of a model are queued or running.
    pub fn items_of(&self, model: &Model) -> usize {
        self.parts.dispatch.items_of(model.slot)
    }

    /// Subscribes to the health of the workers.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.parts.health.clone()
    }

    /// Makes the server not ready, so that load balancers stop sending requests. It still answers those
    /// that arrive.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Subscribes to [`Engine::close`].
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Subscribes to the progress of the start.
    pub fn startup(&self) -> watch::Receiver<Phase> {
        self.parts.updater.startup().subscribe()
    }

    /// Returns the status of each worker; empty if the dispatcher has stopped.
    pub async fn worker_states(&self) -> Vec<worker::Status> {
        self.parts.dispatch.workers().await
    }

    /// Asks the dispatcher and any worker for a sign of life. Returns whether one arrived within
    /// `timeout`.
    ///
    /// # Errors
    /// The dispatcher has stopped.
    pub async fn probe(&self, timeout: Duration) -> Result<bool, DispatcherStopped> {
        let (reply, alive) = oneshot::channel();
        self.parts
            .events
            .send(Event::ProbeRequested(reply))
            .await
            .map_err(|_| DispatcherStopped)?;
        Ok(matches!(time::timeout(timeout, alive).await, Ok(Ok(()))))
    }

    /// Finds the model with that name or alias, or the first model if `name` is `None`.
    ///
    /// # Errors
    /// No such model is served.
    pub fn find(&self, name: Option<&str>) -> Result<&Arc<Model>, EngineError> {
        self.parts.registry.find(name).ok_or_else(|| {
            // A model that could not be loaded is not available.
            let models = self.models().iter().filter(|model| model.failure().is_none());
            let served: Vec<&str> = models.map(|model| model.name.as_str()).collect();
            let name = name.unwrap_or_default().chars().take(NAME_CHARACTERS_MAX).collect();
            EngineError::ModelNotFound { name, served: served.join(", ") }
        })
    }

    /// Finds the model with that name. If `version` is not empty, the model must serve that
    /// generation.
    ///
    /// # Errors
    /// The model or that generation of it is not served.
    pub fn find_version(&self, name: &str, version: &str) -> Result<&Arc<Model>, EngineError> {
        let model = self.find(Some(name))?;
        if let Some((generation, _)) = model.serving() {
            require_version(model, version, generation)?;
        }
        Ok(model)
    }

    /// Returns what the model serves, which must have one of these tasks. A model that loads on
    /// first use is loaded first, within the request's time.
    ///
    /// # Errors
    /// The model's task is different, it is unloaded, or it cannot be loaded.
    pub async fn ready(
        &self,
        context: &RequestContext,
        model: &Model,
        tasks: &[Task],
    ) -> Result<(Generation, Arc<Record>), EngineError> {
        let _pass = self.admit(model, context.timeout()).await?;
        require_task(model, tasks)
    }

    /// Answers the inputs from one generation of the model, which must have one of these tasks.
    /// Dropping the future cancels the request; see [`RequestContext`].
    async fn run(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        tasks: &[Task],
        inputs: Vec<Input>,
    ) -> Result<Answer<Vec<answer::Item>>, EngineError> {
        let characters = inputs.iter().map(answer::characters).sum();
        let (_pass, timeout) = self.admit(model, context.timeout()).await?;
        require_task(model, tasks)?;
        let terms = RequestTerms { timeout, priority: context.priority() };
        let answer = self.parts.dispatch.run(model, inputs, terms).await?;
        let record = model.record(answer.generation).ok_or(EngineError::UnknownGeneration)?;
        let origin = Origin {
            model: Arc::clone(model),
            generation: answer.generation,
            record,
            started: context.started(),
            timing: answer.timing,
            phases: answer.phases,
            is_traced: context.trace().is_some_and(TraceContext::is_sampled),
            tokens: answer.tokens,
            characters,
        };
        Ok(Answer { origin, output: answer.items })
    }

    /// Returns the time left for a request whose processing started at `begin`.
    fn time_left(&self, context: &RequestContext, start: Instant) -> Duration {
        self.parts.dispatch.time_allowed(context.timeout()).saturating_sub(start.elapsed())
    }

    /// Admits a request to a model, and first loads a model that loads on first use. Returns the
    /// pass that keeps the model loaded until the request is answered, and the time left.
    async fn admit(
        &self,
        model: &Model,
        timeout: Option<Duration>,
    ) -> Result<(Pass, Option<Duration>), EngineError> {
        if let Ok(pass) = model.gate.admit() {
            return Ok((pass, timeout));
        }
        let (start, allowed) = (Instant::now(), self.parts.dispatch.time_allowed(timeout));
        let loaded = time::timeout(allowed, self.parts.updater.ensure_loaded(model)).await;
        let pass = loaded.map_err(|_| GatherError::Timeout(allowed))??;
        Ok((pass, Some(allowed.saturating_sub(start.elapsed()))))
    }
}

/// Returns what the model serves, which must have one of these tasks.
fn require_task(model: &Model, tasks: &[Task]) -> Result<(Generation, Arc<Record>), EngineError> {
    let (generation, record) = model.serving().ok_or(EngineError::NotLoaded)?;
    let task = record.facts.task;
    if tasks.contains(&task) {
        return Ok((generation, record));
    }
    let wanted: Vec<&str> = tasks.iter().map(|task| task.as_str()).collect();
    Err(EngineError::WrongTask { model: model.name.to_string(), task, wanted: wanted.join(" or ") })
}

fn require_version(model: &Model, version: &str, served: Generation) -> Result<(), EngineError> {
    if version.is_empty() || version == served.to_string() {
        return Ok(());
    }
    let version = version.chars().take(VERSION_CHARACTERS_MAX).collect();
    Err(EngineError::VersionNotFound { version, model: model.name.to_string(), served })
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
