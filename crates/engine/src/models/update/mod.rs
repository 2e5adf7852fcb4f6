//! Updates as callers see them: requests, progress and outcomes. [`crate::models::machine`] decides,
//! and [`crate::models::update::driver`] carries out.

pub mod background;
pub mod checker;
pub mod coordinator;
mod driver;
mod error;
mod index;
mod payload;
mod resolve;
mod restore;
mod spans;
mod steps;
pub mod trial;
mod unfinished;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use onnxd_proto::domain::{Refusal, RefusalKind, SourceUri, SourceUriError};
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use crate::models::{
    gate::{Pass, Presence},
    indexes::{Candidates, Indexes, NoIndexes},
    machine::{
        Times, UpdateMachine,
        events::{CallId, Event, Job, Stop, WorkerEvent},
    },
    registry::{Model, Registry},
    startup::{Phase, Startup},
    store::Store,
    update::{
        background::Background,
        checker::Checker,
        coordinator::Coordinator,
        driver::{Caller, Driver, Input},
        error::CallError,
        payload::Versions,
        restore::{ModelLoader, Restore},
    },
    workers::Workers,
};
use crate::tasks::EssentialTasks;
use onnxd_proto::domain::{Load, Outcome, Step, Unloaded};
use onnxd_telemetry::{metrics::Metrics, tracer::Tracer};

pub use self::error::{NotServed, RestoreError};

/// Receives the steps of an update. A step is dropped if the channel is full.
pub type Progress = mpsc::Sender<Step>;

/// Runs updates through the update tasks of all models.
#[derive(Debug)]
pub struct Updater {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    indexes: Arc<dyn Indexes>,
    handles: Vec<UpdateHandle>,
    /// By slot: whether a generation of the configured source was kept when the server started.
    kept: Vec<bool>,
    startup: Startup,
    /// Pauses that are not resumed yet.
    pauses: AtomicU32,
}

/// A handle to one model's update task, used by callers and by the dispatcher's worker events.
#[derive(Clone, Debug)]
pub struct UpdateHandle(mpsc::Sender<Input>);

impl UpdateHandle {
    /// Returns a handle to the task that reads the other end.
    fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self(inputs)
    }

    /// Reports a worker event. Drops it if the queue is full: loading ahead has a deadline, and the
    /// first two failures decide a probation.
    pub fn notify(&self, event: WorkerEvent) {
        self.try_notify(Event::Worker(event));
    }

    fn try_notify(&self, event: Event<Versions>) {
        match self.0.try_send(Input::Event(event)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::warn!("dropped an event: a model's update queue is full")
            }
            // The end of the task stops the server, see `tasks`.
            Err(TrySendError::Closed(_)) => tracing::error!("a model's update task ended"),
        }
    }
}

/// The dependencies of update tasks.
#[derive(Clone, Debug)]
pub struct Deps {
    pub store: Arc<Store>,
    pub registry: Arc<Registry>,
    pub checker: Checker,
    pub metrics: Arc<Metrics>,
    pub times: Times,
    pub background: Background,
    /// The request timeout, which limits how long an unload waits for requests in flight.
    pub request_timeout: Duration,
    /// Runs the update tasks.
    pub tasks: EssentialTasks,
    pub workers: Arc<dyn Workers>,
    /// The indexes of documents, which are completed before each commit.
    pub indexes: Arc<dyn Indexes>,
    /// Embed documents by versions that need not serve.
    pub candidates: Arc<dyn Candidates>,
    /// Numbers generations.
    pub coordinator: Arc<dyn Coordinator>,
    /// Records the spans of updates.
    pub tracer: Tracer,
}

impl Updater {
    /// Starts a task for each model, which continues numbering after the store's records. Nothing
    /// serves yet.
    pub fn new(deps: &Deps) -> Self {
        let start = |model: &Arc<Model>| {
            // If the records cannot be listed, loading the model fails for the same reason. Other models
            // go on.
            let numbers = deps.store.generations(&model.name).unwrap_or_default();
            let last = numbers.last().copied();
            let machine = UpdateMachine::new(last.unwrap_or(0), None, deps.times);
            let kept = deps.store.keeps_source(&model.name, &model.source);
            (Driver::start(machine, Arc::clone(model), deps.clone()), kept)
        };
        let (handles, kept) = deps.registry.models().iter().map(start).unzip();
        let (registry, metrics) = (Arc::clone(&deps.registry), Arc::clone(&deps.metrics));
        let (startup, pauses) = (Startup::new(Phase::Begun), AtomicU32::new(0));
        let indexes = Arc::clone(&deps.indexes);
        Self { registry, metrics, indexes, handles, kept, startup, pauses }
    }

    /// Returns an updater that loads no model. Its start is done.
    pub fn without_models(registry: &Arc<Registry>, metrics: &Arc<Metrics>) -> Self {
        let (registry, metrics) = (Arc::clone(registry), Arc::clone(metrics));
        let (handles, kept, startup) = (Vec::new(), Vec::new(), Startup::new(Phase::Done));
        let (indexes, pauses) = (Arc::new(NoIndexes), AtomicU32::new(0));
        Self { registry, metrics, indexes, handles, kept, startup, pauses }
    }

    /// Returns the progress of the start.
    pub fn startup(&self) -> &Startup {
        &self.startup
    }

    /// Loads every preloaded model: its last committed generation, or its source if it has none.
    /// Returns once one of them serves, all others have been tried, and the required ones serve.
    /// Waits for sources on other servers that may answer later. Starts `workers`.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub async fn restore(&self, workers: &dyn Workers) -> Result<(), RestoreError> {
        let models = self.registry.models().iter().map(Arc::as_ref);
        let preloaded = models.filter(|model| model.preload).collect();
        let loader = ModelLoader::new(self, workers);
        Restore::new(&loader, &self.startup).run(preloaded).await
    }

    /// Returns whether a generation of the model was kept when the server started, of the source that
    /// is still configured.
    pub fn was_kept(&self, model: &Model) -> bool {
        self.kept.get(usize::from(model.slot)).copied().unwrap_or_default()
    }

    /// Admits a request to a model, and loads the model first if it is unused so far. The model stays
    /// loaded until the result is dropped.
    ///
    /// # Errors
    /// The model is unloaded, could not be loaded, or the server is starting and checks its first
    /// version.
    pub async fn ensure_loaded(&self, model: &Model) -> Result<Pass, NotServed> {
        self.started(model).await?;
        loop {
            let is_unloaded =
                |presence| matches!(presence, Presence::Unloading | Presence::Unloaded);
            let unloaded = || Err(NotServed::Unloaded(model.name.to_string()));
            match model.gate.admit() {
                Ok(pass) => return Ok(pass),
                Err(presence) if is_unloaded(presence) => return unloaded(),
                // Its source is tried again, but not by requests.
                Err(_)
                    if model.preload
                        && let Some(refusal) = model.failure() =>
                {
                    return Err(NotServed::Failed(refusal));
                }
                // Concurrent requests share one load.
                Err(_) => match self.request_load(model, Load::Ahead).await {
                    Ok(()) => {}
                    Err(_) if is_unloaded(model.gate.presence()) => return unloaded(),
                    Err(error) => {
                        let refusal = error.into_refusal();
                        if let Some(suppressed) = model.first_use_failed.admit() {
                            let (kind, reason) = (refusal.kind, refusal.message.as_str());
                            tracing::warn!(model = %model.name, ?kind, reason, suppressed, "loading on first use failed");
                        }
                        model.set_failure(refusal.clone());
                        return Err(NotServed::Failed(refusal));
                    }
                },
            }
        }
    }

    /// Waits until the start has come to a model. That takes a moment if a generation is kept, but
    /// minutes if its source is checked first or is away.
    async fn started(&self, model: &Model) -> Result<(), NotServed> {
        let mut phases = self.startup.subscribe();
        loop {
            let phase = phases.borrow_and_update().clone();
            if phase == Phase::Done || model.gate.presence() == Presence::Loaded {
                return Ok(());
            }
            let comes_soon = self.was_kept(model) && model.failure().is_none();
            if model.preload && !comes_soon {
                return Err(NotServed::Starting(phase));
            }
            // Cannot fail: `self` holds the sender.
            let _ = phases.changed().await;
        }
    }

    /// Waits until a model serves, and loads it if necessary.
    async fn request_load(&self, model: &Model, load: Load) -> Result<(), CallError> {
        let (progress, _) = mpsc::channel(1);
        let input = |id, caller| Input::LoadRequested(id, load, caller);
        self.call(model, progress, input).await.map(drop)
    }

    /// Returns a handle to each model's update task, by slot.
    pub fn handles(&self) -> Vec<UpdateHandle> {
        self.handles.clone()
    }

    /// Aborts updates that are not decided yet. The serving generations stay.
    pub fn stop(&self) {
        self.handles.iter().for_each(|handle| handle.try_notify(Event::Stopped(Stop::Stopping)));
    }

    /// Pauses new updates of all models and returns once none is running, so that a successor finds
    /// everything durable. Calls wait until [`Updater::resume`]; so do updates that are still being
    /// staged, because a download may take hours.
    pub async fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
        let mut idle = Vec::new();
        for handle in &self.handles {
            let (waiter, paused) = oneshot::channel();
            // A task that ended runs nothing, and its end stops the server.
            let _ = handle.0.send(Input::Hold(waiter)).await;
            idle.push(paused);
        }
        for paused in idle {
            let _ = paused.await;
        }
    }

    /// Resumes updates after [`Updater::pause`].
    pub async fn resume(&self) {
        self.pauses.fetch_sub(1, Ordering::Relaxed);
        for handle in &self.handles {
            let _ = handle.0.send(Input::Event(Event::Resumed)).await;
        }
    }

    /// Returns whether updates are paused.
    pub(super) fn is_paused(&self) -> bool {
        self.pauses.load(Ordering::Relaxed) > 0
    }

    /// Hands updates over to a successor and tells waiting callers to retry with it.
    pub async fn hand_over(&self) {
        for handle in &self.handles {
            let _ = handle.0.send(Input::Event(Event::Stopped(Stop::HandingOver))).await;
        }
    }

    /// Updates a model. Once this returns, every new request is answered by the new generation.
    ///
    /// # Errors
    /// Why the serving generation stays, or which generation superseded this update.
    pub async fn update(
        &self,
        model: &Model,
        job: Job,
        progress: Progress,
    ) -> Result<Outcome, Refusal> {
        let start = Instant::now();
        let result = match index::require_ahead(&*self.indexes, model, &job) {
            Ok(()) => self.call(model, progress, |id, caller| Input::Called(id, job, caller)).await,
            Err(refusal) => Err(CallError::Refused(refusal)),
        };
        let result = result.map_err(CallError::into_refusal);
        let refused = result.as_ref().err().map(|refusal| refusal.kind);
        self.metrics.model(model.slot).updated(refused, start.elapsed());
        if let Err(refusal) = &result {
            self.metrics.updates_refused_total.increment();
            let (kind, reason) = (refusal.kind, refusal.message.as_str());
            match kind {
                // Frequent and harmless in a storm of updates.
                RefusalKind::Superseded => {
                    tracing::debug!(model = %model.name, reason, "update superseded");
                }
                _ => tracing::warn!(model = %model.name, ?kind, reason, "update refused"),
            }
        }
        result
    }

    /// Sends an input to a model's update task and waits for the answer.
    async fn call(
        &self,
        model: &Model,
        progress: Progress,
        input: impl FnOnce(CallId, Caller) -> Input,
    ) -> Result<Outcome, CallError> {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let start = Instant::now();
        let (answer, answered) = oneshot::channel();
        let caller = Caller { progress, answer, start };
        let id = CALLS.fetch_add(1, Ordering::Relaxed);
        let handle = &self.handles[usize::from(model.slot)];
        handle.0.send(input(id, caller)).await.map_err(|_| CallError::Ended)?;
        let answer = answered.await.map_err(|_| CallError::Ended)?;
        answer.map_err(CallError::Refused)
    }

    /// Ends the running and the waiting updates of a model, and returns how many calls that ends.
    ///
    /// # Errors
    /// No update runs or waits, or its commit is decided.
    pub async fn cancel(&self, model: &Model) -> Result<usize, Refusal> {
        let (reply, cancelled) = oneshot::channel();
        // If the task ended, the reply is dropped as well.
        let input = Input::Cancel(Instant::now(), reply);
        let _ = self.handles[usize::from(model.slot)].0.send(input).await;
        let updates = cancelled.await.map_err(|_| CallError::Ended.into_refusal())??;
        tracing::info!(model = %model.name, updates, "cancelled");
        Ok(updates)
    }

    /// Unloads a model. Returns once every admitted request is answered and workers have dropped the
    /// model.
    ///
    /// # Errors
    /// A newer call superseded this one, or onnxd is stopping.
    pub async fn unload(&self, model: &Model) -> Result<Unloaded, Refusal> {
        let (progress, _) = mpsc::channel(1);
        let Outcome { model, previous_generation: generation, seconds, .. } =
            self.update(model, Job::unload(), progress).await?;
        Ok(Unloaded { model, generation, seconds })
    }

    /// Updates every model from its configured source, one at a time, as SIGHUP requests. Skips those
    /// that are unloaded or not used yet.
    /// Returns the refused models with the reasons.
    pub async fn update_all(&self) -> Vec<(String, Refusal)> {
        let mut refused = Vec::new();
        let is_wanted = |model: &&Arc<Model>| {
            let is_loaded = model.gate.presence() == Presence::Loaded;
            is_loaded || model.preload && model.failure().is_some()
        };
        for model in self.registry.models().iter().filter(is_wanted) {
            let (progress, _) = mpsc::channel(1);
            let job = Job::from_source(None, Load::default());
            if let Err(refusal) = self.update(model, job, progress).await {
                refused.push((model.name.to_string(), refusal));
            }
        }
        refused
    }
}

/// Time limit for one worker to load ahead; then the update continues without it.
pub const LOAD_AHEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Parses the source that a request names. A path must be absolute, because client and server may run
/// in different directories.
///
/// # Errors
/// The path is relative, or the scheme is unknown.
pub fn source(uri: &str) -> Result<SourceUri, Refusal> {
    uri.parse().map_err(|error: SourceUriError| RefusalKind::NotFound.because(error.to_string()))
}
