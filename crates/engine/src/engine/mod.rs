//! Runs inference for any protocol. HTTP and gRPC contracts, the watchdog and benchmarks are
//! ordinary callers: they find a model, build a request, and render the answer or the error in
//! their own words. Nothing here knows a status code, a header or a message format.
//!
//! - [`context`]: what a request brings along besides its inputs.
//! - [`texts`]: calls on texts that give vectors, tokens or texts: embed, tokenize, decode.
//! - [`labels`]: calls on texts that give scores and labels: classify, rerank, find entities.
//! - [`options`]: how texts become tokens; [`items`] makes items of texts and bounds them.
//! - [`tensors`]: calls on named tensors, for models of every task; [`check`] bounds them, and
//!   [`tensor_texts`] says what texts are as tensors.
//! - [`signature`]: what a model takes and gives, as tensors.
//! - [`answer`]: what every answer says of where it comes from.
//! - [`scores`]: pure: from raw outputs to numbers for clients.
//! - [`memory`]: the memory of large bodies. [`error`]: why there is no answer.

pub mod answer;
mod check;
pub mod context;
pub mod error;
mod items;
pub mod labels;
pub mod memory;
mod options;
pub mod scores;
pub mod signature;
mod tensor_texts;
pub mod tensors;
pub mod texts;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use onnxd_proto::{
    domain::{Record, Task},
    generation::Generation,
};
use onnxd_telemetry::metrics::Metrics;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

pub use self::{
    answer::{Answer, Origin},
    context::RequestContext,
    error::{EngineError, ErrorKind},
    memory::MemoryBudget,
};
use crate::{
    dispatch::{
        Event, Input, Terms,
        gather::{Dispatch, GatherError},
        health::Health,
        worker,
    },
    models::{
        gate::{Pass, Presence},
        registry::{Model, Registry},
        update::Updater,
    },
};

/// Characters of an unknown name that an error repeats.
const NAME_CHARACTERS_MAX: usize = 200;
/// Characters of an unknown version that an error repeats.
const VERSION_CHARACTERS_MAX: usize = 40;
/// Every task; calls on tensors and metadata take any model.
pub const ALL_TASKS: [Task; 7] = Task::ALL;

/// Runs inference on the served models.
#[derive(Debug)]
pub struct Engine {
    parts: Parts,
    memory: MemoryBudget,
}

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// The served models.
    pub registry: Arc<Registry>,
    /// The way into the dispatcher.
    pub dispatch: Dispatch,
    /// Loads models on first use.
    pub updater: Arc<Updater>,
    /// Whether workers answer.
    pub health: watch::Receiver<Health>,
    /// Counters of requests and models.
    pub metrics: Arc<Metrics>,
    /// The dispatcher itself, for probes.
    pub events: mpsc::Sender<Event>,
    /// How many workers there are.
    pub workers: usize,
}

/// The dispatcher has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the dispatcher has ended")]
pub struct Ended;

impl Engine {
    /// An engine whose large bodies share `memory`.
    pub fn new(parts: Parts, memory: MemoryBudget) -> Self {
        Self { parts, memory }
    }

    /// All models; the first answers requests that name none.
    pub fn models(&self) -> &[Arc<Model>] {
        self.parts.registry.models()
    }

    /// The served models, for those who watch them.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.parts.registry
    }

    /// Counters of requests and models.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.parts.metrics
    }

    /// The memory of large bodies.
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.parts.workers
    }

    /// Items of one model that may wait or be computed at once.
    pub fn items_max(&self) -> usize {
        self.parts.dispatch.items_max()
    }

    /// Follows whether workers answer.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.parts.health.clone()
    }

    /// Returns whether requests are answered: every worker has been ready once and one serves.
    pub fn is_ready(&self) -> bool {
        self.parts.health.borrow().is_ready()
    }

    /// Returns whether requests to a model are answered: it serves, or the first request loads it,
    /// and a worker is there.
    pub fn is_model_ready(&self, model: &Model) -> bool {
        let is_present = matches!(model.gate.presence(), Presence::Loaded | Presence::NotLoaded);
        self.is_ready() && is_present
    }

    /// The state of each worker; none where the dispatcher has ended.
    pub async fn worker_states(&self) -> Vec<worker::Status> {
        self.parts.dispatch.workers().await
    }

    /// Asks the dispatcher and any worker for a sign of life, and returns whether it came within
    /// `patience`.
    ///
    /// # Errors
    /// The dispatcher has ended.
    pub async fn probe(&self, patience: Duration) -> Result<bool, Ended> {
        let (reply, alive) = oneshot::channel();
        self.parts.events.send(Event::ProbeAsked(reply)).await.map_err(|_| Ended)?;
        Ok(matches!(time::timeout(patience, alive).await, Ok(Ok(()))))
    }

    /// The model of that name or alias, or the first.
    ///
    /// # Errors
    /// It is not served.
    pub fn find(&self, name: Option<&str>) -> Result<&Arc<Model>, EngineError> {
        self.parts.registry.find(name).ok_or_else(|| {
            let served: Vec<&str> = self.models().iter().map(|model| model.name.as_str()).collect();
            let name = name.unwrap_or_default().chars().take(NAME_CHARACTERS_MAX).collect();
            EngineError::ModelNotFound { name, served: served.join(", ") }
        })
    }

    /// The model of that name, which must serve the generation `version`, if that is not empty.
    ///
    /// # Errors
    /// It is not served, or another generation of it.
    pub fn find_version(&self, name: &str, version: &str) -> Result<&Arc<Model>, EngineError> {
        let model = self.find(Some(name))?;
        if let Some((generation, _)) = model.serving() {
            require_version(model, version, generation)?;
        }
        Ok(model)
    }

    /// Returns what the model serves, which must be for one of these tasks. Loads it first if it
    /// has not been used yet, within the request's time.
    ///
    /// # Errors
    /// The model does something else, is unloaded, or cannot be loaded.
    pub async fn ready(
        &self,
        context: &RequestContext,
        model: &Model,
        tasks: &[Task],
    ) -> Result<(Generation, Arc<Record>), EngineError> {
        let _pass = self.admit(model, context.timeout()).await?;
        require_task(model, tasks)
    }

    /// Has the model, which must be for one of these tasks, answer the inputs in one generation.
    /// Dropping the future cancels the request, see [`RequestContext`].
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
        let terms = Terms { timeout, priority: context.priority() };
        let answer = self.parts.dispatch.run(model, inputs, terms).await?;
        let record = model.record(answer.generation).ok_or(EngineError::UnknownGeneration)?;
        let origin = Origin {
            model: Arc::clone(model),
            generation: answer.generation,
            record,
            started: context.started(),
            timing: answer.timing,
            tokens: answer.tokens,
            characters,
        };
        Ok(Answer { origin, output: answer.items })
    }

    /// The time that is left of what a request has, which began to be worked on then.
    fn time_left(&self, context: &RequestContext, begin: Instant) -> Duration {
        self.parts.dispatch.time_allowed(context.timeout()).saturating_sub(begin.elapsed())
    }

    /// Admits a request to a model, and loads the model first if it has not been used yet. Returns
    /// what keeps the model until the request is answered, and the time that is left.
    async fn admit(
        &self,
        model: &Model,
        timeout: Option<Duration>,
    ) -> Result<(Pass, Option<Duration>), EngineError> {
        if let Ok(pass) = model.gate.admit() {
            return Ok((pass, timeout));
        }
        let (begin, allowed) = (Instant::now(), self.parts.dispatch.time_allowed(timeout));
        let loaded = time::timeout(allowed, self.parts.updater.ensure_loaded(model)).await;
        let pass = loaded.map_err(|_| GatherError::Timeout(allowed))??;
        Ok((pass, Some(allowed.saturating_sub(begin.elapsed()))))
    }
}

/// Returns what the model serves, which must be for one of these tasks.
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
