//! Updates as callers see them: what can be asked for, what is told on the way, what comes out.
//! [`crate::models::machine`] decides, [`crate::models::update::driver`] does.

pub mod background;
pub mod checker;
pub mod coordinator;
mod driver;
mod find;
mod payload;
mod steps;
pub mod trial;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use onnxd_proto::domain::{Refusal, RefusalKind, SourceUri, SourceUriError};
use thiserror::Error;
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use crate::models::{
    gate::{Pass, Presence},
    machine::{
        Times, UpdateMachine,
        events::{CallId, Event, Job, Stop, WorkerEvent},
    },
    registry::{Model, Registry},
    store::Store,
    update::{
        background::Background,
        checker::Checker,
        coordinator::Coordinator,
        driver::{Caller, Driver, Input},
        payload::Versions,
    },
    workers::Workers,
};
use crate::tasks::EssentialTasks;
use onnxd_proto::domain::{Load, Outcome, Step, Unloaded};
use onnxd_telemetry::metrics::Metrics;

/// Why a model does not answer requests.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotServed {
    /// It was told to serve nothing, and does not load by itself.
    #[error("the model `{0}` is unloaded; `onnxd update {0}` loads it again")]
    Unloaded(String),
    /// It was to be loaded on first use.
    #[error("the model could not be loaded: {0}")]
    Failed(Refusal),
}

/// Why a model could not be brought to what it serves at start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// Its source cannot serve.
    #[error("--model {model}: {refusal}")]
    Refused {
        /// The model.
        model: String,
        /// Why its source cannot serve.
        refusal: Refusal,
    },
    /// Its update task has ended: a fault of our own.
    #[error("internal error: the update task of {model} ended unexpectedly")]
    Ended {
        /// The model.
        model: String,
    },
}

/// Why an update task gave no result.
enum AskError {
    Refused(Refusal),
    /// The task has ended.
    Ended,
}

impl AskError {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Ended => RefusalKind::Internal
                .because("internal error: the model's update task ended unexpectedly"),
        }
    }
}

/// Where the steps of an update are told; what nobody reads in time is dropped.
pub type Progress = mpsc::Sender<Step>;

/// The way to the update tasks of all models.
#[derive(Debug)]
pub struct Updater {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    handles: Vec<UpdateHandle>,
}

/// The way to one model's update task; also what the dispatcher tells about workers goes here.
#[derive(Clone, Debug)]
pub struct UpdateHandle(mpsc::Sender<Input>);

impl UpdateHandle {
    /// A handle to the task that reads the other end.
    fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self(inputs)
    }

    /// Tells what happened to a worker. What does not fit the queue is dropped: loading ahead has
    /// a deadline, and a storm of failures is known by its first two.
    pub fn tell(&self, event: WorkerEvent) {
        self.try_tell(Event::Worker(event));
    }

    fn try_tell(&self, event: Event<Versions>) {
        match self.0.try_send(Input::Happened(event)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => tracing::warn!("a model's update task does not keep up"),
            // The server ends because of that, see `tasks`.
            Err(TrySendError::Closed(_)) => tracing::error!("a model's update task has ended"),
        }
    }
}

/// What update tasks work with.
#[derive(Clone, Debug)]
pub struct Means {
    pub store: Arc<Store>,
    pub registry: Arc<Registry>,
    pub checker: Checker,
    pub metrics: Arc<Metrics>,
    pub times: Times,
    pub background: Background,
    /// How long a request may take: an unload waits for those that were accepted.
    pub request_timeout: Duration,
    /// Runs the update tasks.
    pub tasks: EssentialTasks,
    pub workers: Arc<dyn Workers>,
    /// Numbers generations.
    pub coordinator: Arc<dyn Coordinator>,
}

impl Updater {
    /// Starts a task for each model, which continues where the store's records end. Nothing serves
    /// yet.
    ///
    /// # Errors
    /// The store is damaged; the message names the file.
    pub fn new(means: &Means) -> io::Result<Self> {
        let start = |model: &Arc<Model>| {
            let last = means.store.generations(&model.name)?.last().copied().unwrap_or(0);
            let machine = UpdateMachine::new(last, None, means.times);
            Ok(Driver::start(machine, Arc::clone(model), means.clone()))
        };
        let handles = means.registry.models().iter().map(start).collect::<io::Result<_>>()?;
        let (registry, metrics) = (Arc::clone(&means.registry), Arc::clone(&means.metrics));
        Ok(Self { registry, metrics, handles })
    }

    /// One without models, for callers that test themselves.
    pub fn of_no_model(registry: &Arc<Registry>, metrics: &Arc<Metrics>) -> Self {
        let (registry, metrics) = (Arc::clone(registry), Arc::clone(metrics));
        Self { registry, metrics, handles: Vec::new() }
    }

    /// Brings every model that is to be loaded at start to what it serves: its last durable
    /// generation with a sound compiled form, or its source where there is no generation yet.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub async fn restore(&self) -> Result<(), RestoreError> {
        for model in self.registry.models().iter().filter(|model| model.preload) {
            let name = || model.name.to_string();
            // No worker runs yet that could load ahead.
            match self.want(model, Load::Lazy).await {
                Ok(()) => {}
                Err(AskError::Refused(refusal)) => {
                    return Err(RestoreError::Refused { model: name(), refusal });
                }
                Err(AskError::Ended) => return Err(RestoreError::Ended { model: name() }),
            }
        }
        Ok(())
    }

    /// Admits a request to a model, which is loaded first if it has not been used yet. As long as
    /// the result lives the model is not unloaded.
    ///
    /// # Errors
    /// The model is unloaded, or could not be loaded.
    pub async fn ensure_loaded(&self, model: &Model) -> Result<Pass, NotServed> {
        loop {
            let is_unloaded =
                |presence| matches!(presence, Presence::Unloading | Presence::Unloaded);
            let unloaded = || Err(NotServed::Unloaded(model.name.to_string()));
            match model.gate.admit() {
                Ok(pass) => return Ok(pass),
                Err(presence) if is_unloaded(presence) => return unloaded(),
                // All who come here cause one load.
                Err(_) => match self.want(model, Load::Ahead).await {
                    Ok(()) => {}
                    Err(_) if is_unloaded(model.gate.presence()) => return unloaded(),
                    Err(error) => {
                        let refusal = error.into_refusal();
                        let (kind, reason) = (refusal.kind, refusal.message.as_str());
                        tracing::warn!(model = %model.name, ?kind, reason, "not loaded on first use");
                        return Err(NotServed::Failed(refusal));
                    }
                },
            }
        }
    }

    /// Waits until something of a model serves, and has it loaded if nothing does.
    async fn want(&self, model: &Model, load: Load) -> Result<(), AskError> {
        let (progress, _) = mpsc::channel(1);
        self.ask(model, progress, |id, caller| Input::Wanted(id, load, caller)).await.map(drop)
    }

    /// The way to the update task of each model, by slot.
    pub fn handles(&self) -> Vec<UpdateHandle> {
        self.handles.clone()
    }

    /// Gives up updates that are not decided yet; the serving generations stay.
    pub fn stop(&self) {
        self.handles.iter().for_each(|handle| handle.try_tell(Event::Stopped(Stop::Stopping)));
    }

    /// Has nothing new begin for any model, and returns when nothing runs: then a successor finds
    /// everything durable. Calls wait meanwhile.
    pub async fn hold(&self) {
        let mut idle = Vec::new();
        for handle in &self.handles {
            let (holding, held) = oneshot::channel();
            // A task that has ended runs nothing; the server ends with it.
            let _ = handle.0.send(Input::Hold(holding)).await;
            idle.push(held);
        }
        for held in idle {
            let _ = held.await;
        }
    }

    /// Lets what was held begin.
    pub async fn resume(&self) {
        for handle in &self.handles {
            let _ = handle.0.send(Input::Happened(Event::Resumed)).await;
        }
    }

    /// A successor updates from now on: whoever waits is told to ask it.
    pub async fn hand_over(&self) {
        for handle in &self.handles {
            let _ = handle.0.send(Input::Happened(Event::Stopped(Stop::HandingOver))).await;
        }
    }

    /// Updates a model and returns when every request that begins afterwards is answered by the
    /// new generation.
    ///
    /// # Errors
    /// Why the serving generation stays, or which one superseded this update.
    pub async fn update(
        &self,
        model: &Model,
        job: Job,
        progress: Progress,
    ) -> Result<Outcome, Refusal> {
        let start = Instant::now();
        let result = self.ask(model, progress, |id, caller| Input::Called(id, job, caller)).await;
        let result = result.map_err(AskError::into_refusal);
        let refused = result.as_ref().err().map(|refusal| refusal.kind);
        self.metrics.model(model.slot).updated(refused, start.elapsed());
        if let Err(refusal) = &result {
            self.metrics.updates_refused_total.add();
            let (kind, reason) = (refusal.kind, refusal.message.as_str());
            match kind {
                // In a storm these are many, and no fault.
                RefusalKind::Superseded => {
                    tracing::debug!(model = %model.name, reason, "update superseded");
                }
                _ => tracing::warn!(model = %model.name, ?kind, reason, "update refused"),
            }
        }
        result
    }

    /// Tells a model's update task, and waits for its answer.
    async fn ask(
        &self,
        model: &Model,
        progress: Progress,
        input: impl FnOnce(CallId, Caller) -> Input,
    ) -> Result<Outcome, AskError> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let start = Instant::now();
        let (answer, answered) = oneshot::channel();
        let caller = Caller { progress, answer, start };
        let id = CALLS.fetch_add(1, Ordering::Relaxed);
        let handle = &self.handles[usize::from(model.slot)];
        handle.0.send(input(id, caller)).await.map_err(|_| AskError::Ended)?;
        let answer = answered.await.map_err(|_| AskError::Ended)?;
        answer.map_err(AskError::Refused)
    }

    /// Unloads a model: returns when what it had accepted is answered and workers have dropped what
    /// they had of it.
    ///
    /// # Errors
    /// A newer call took this one's place, or onnxd is stopping.
    pub async fn unload(&self, model: &Model) -> Result<Unloaded, Refusal> {
        let (progress, _) = mpsc::channel(1);
        let Outcome { model, previous_generation: generation, seconds, .. } =
            self.update(model, Job::unload(), progress).await?;
        Ok(Unloaded { model, generation, seconds })
    }

    /// Updates every loaded model from its own source, one after the other: what SIGHUP asks for.
    /// Gives the models that were refused, with the reasons.
    pub async fn update_all(&self) -> Vec<(String, Refusal)> {
        let mut refused = Vec::new();
        let loaded = |model: &&Arc<Model>| model.gate.presence() == Presence::Loaded;
        for model in self.registry.models().iter().filter(loaded) {
            let (progress, _) = mpsc::channel(1);
            let job = Job::from_source(None, Load::default());
            if let Err(refusal) = self.update(model, job, progress).await {
                refused.push((model.name.to_string(), refusal));
            }
        }
        refused
    }
}

/// How long one worker may take to load ahead before the update goes on without it.
pub const LOAD_AHEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The source that a request names. A path must be absolute, since the two processes may stand in
/// different directories.
///
/// # Errors
/// The path is relative, or the scheme is unknown.
pub fn source(uri: &str) -> Result<SourceUri, Refusal> {
    uri.parse().map_err(|error: SourceUriError| RefusalKind::NotFound.because(error.to_string()))
}
