//! Loads the models at start: first those with a generation that can serve, so that the workers
//! start early, then the others, whose sources are checked. A model that cannot be loaded does not
//! keep the others from serving. Called by [`Updater::restore`].

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    pin::pin,
    time::Duration,
};

use onnxd_proto::domain::{Load, Refusal};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use crate::models::{
    gate::Presence,
    registry::Model,
    schedule::Schedule,
    startup::{Phase, Progress, Startup},
    update::{CallError, RestoreError, Updater, driver::Input},
    workers::Workers,
};

/// Pause after the first failure.
const INTERVAL: Duration = Duration::from_secs(2);
/// Longest pause while nothing serves until the source answers.
const LONGEST: Duration = Duration::from_secs(60);

/// How often a start that waits looks whether a model serves by now.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a start needs of the updater.
pub(super) trait Loader {
    /// Returns whether a generation of the model was kept when the server started, of the source that
    /// is still configured.
    fn was_kept(&self, model: &Model) -> bool;

    /// Loads a model: its last generation, or its source if it has none.
    fn load(&self, model: &Model) -> impl Future<Output = Result<(), CallError>>;

    /// Starts the workers. Later calls do nothing.
    fn start_workers(&self) -> impl Future<Output = ()>;
}

/// Loads models through their update tasks.
pub(super) struct ModelLoader<'a> {
    updater: &'a Updater,
    workers: &'a dyn Workers,
}

impl<'a> ModelLoader<'a> {
    pub(super) fn new(updater: &'a Updater, workers: &'a dyn Workers) -> Self {
        Self { updater, workers }
    }
}

impl Loader for ModelLoader<'_> {
    fn was_kept(&self, model: &Model) -> bool {
        self.updater.was_kept(model)
    }

    async fn load(&self, model: &Model) -> Result<(), CallError> {
        // Workers that run load it before it is committed, the others when they start.
        let (progress, mut steps) = mpsc::channel(1);
        let input = |id, caller| Input::LoadRequested(id, Load::Ahead, caller);
        let mut load = pin!(self.updater.call(model, progress, input));
        loop {
            tokio::select! {
                result = load.as_mut() => return result.map(drop),
                Some(_) = steps.recv() => self.updater.startup.progressed(),
            }
        }
    }

    async fn start_workers(&self) {
        self.workers.start().await;
    }
}

/// A start.
pub(super) struct Restore<'a, L> {
    loader: &'a L,
    startup: &'a Startup,
    /// Whether a model serves.
    serves: bool,
}

/// A model that is tried again, because its source may become usable.
struct Waiting<'a> {
    model: &'a Model,
    schedule: Schedule,
    refusal: Refusal,
}

impl<'a, L: Loader> Restore<'a, L> {
    pub(super) fn new(loader: &'a L, startup: &'a Startup) -> Self {
        Self { loader, startup, serves: false }
    }

    /// Loads `models`. Returns once all have been tried, one of them serves, and the required ones
    /// do.
    pub(super) async fn run(mut self, models: Vec<&'a Model>) -> Result<(), RestoreError> {
        let of = models.len();
        let (kept, new): (Vec<_>, Vec<_>) =
            models.iter().copied().partition(|model| self.loader.was_kept(model));
        let (mut waiting, mut refused) = (Vec::new(), None);
        for (model, place) in kept.into_iter().chain(new).zip(1..) {
            let progress = Progress { model: model.name.to_string(), place, of };
            self.begin(model, progress).await;
            let Some(refusal) = self.load(model).await? else { continue };
            if is_worth_waiting(model, &refusal) {
                waiting.push(Waiting::new(model, refusal));
            } else {
                refused.get_or_insert((model, refusal));
            }
        }
        while let Some(entry) = self.next(&mut waiting) {
            let Waiting { model, refusal, .. } = &*entry;
            let (model, reason) = (*model, refusal.message.clone());
            self.startup.set(Phase::Waiting { model: model.name.to_string(), reason });
            let due = entry.schedule.due();
            time::sleep_until(due.min(now() + LOOK_INTERVAL).into()).await;
            // An operator may have updated a model meanwhile.
            self.serves |= models.iter().any(|model| model.gate.presence() == Presence::Loaded);
            if now() < due && model.gate.presence() != Presence::Loaded {
                continue;
            }
            let refusal = self.load(model).await?;
            match refusal {
                Some(refusal) if is_worth_waiting(model, &refusal) => entry.failed(refusal),
                other => {
                    waiting.retain(|waiting| waiting.model.slot != model.slot);
                    if let Some(refusal) = other {
                        refused.get_or_insert((model, refusal));
                    }
                }
            }
        }
        if let Some((model, refusal)) = refused.filter(|_| !self.serves) {
            return Err(RestoreError::Refused { model: model.name.to_string(), refusal });
        }
        self.loader.start_workers().await;
        self.startup.set(Phase::Done);
        Ok(())
    }

    /// Announces that a model is loaded next.
    async fn begin(&self, model: &Model, progress: Progress) {
        if self.loader.was_kept(model) {
            return self.startup.set(Phase::Restoring(progress));
        }
        // The models before this one serve while its source is checked.
        if self.serves {
            self.loader.start_workers().await;
        }
        tracing::info!(source = %model.source, "checking {progress}");
        self.startup.set(Phase::Checking(progress));
    }

    /// Loads a model. Returns why it does not serve.
    async fn load(&mut self, model: &Model) -> Result<Option<Refusal>, RestoreError> {
        let refusal = match self.loader.load(model).await {
            Ok(()) => {
                self.serves = true;
                return Ok(None);
            }
            Err(CallError::Refused(refusal)) => refusal,
            Err(CallError::Ended) => {
                return Err(RestoreError::Ended { model: model.name.to_string() });
            }
        };
        let may_recover = is_worth_waiting(model, &refusal);
        if model.required && !may_recover {
            return Err(RestoreError::Refused { model: model.name.to_string(), refusal });
        }
        let is_new = model.failure().is_none_or(|failure| failure.message != refusal.message);
        if is_new {
            let (kind, reason, source) = (refusal.kind, refusal.message.as_str(), &model.source);
            match may_recover {
                true => {
                    tracing::warn!(model = %model.name, %source, ?kind, reason, "waiting for the source: no generation can serve yet")
                }
                false => {
                    tracing::error!(model = %model.name, %source, ?kind, reason, "model not served; its source is tried again at the next check, then when it changes")
                }
            }
        }
        model.set_failure(refusal.clone());
        Ok(Some(refusal))
    }

    /// Returns the model to try next, if the start cannot end without it.
    fn next<'b>(&self, waiting: &'b mut [Waiting<'a>]) -> Option<&'b mut Waiting<'a>> {
        let is_needed = |waiting: &&mut Waiting<'_>| !self.serves || waiting.model.required;
        waiting.iter_mut().filter(is_needed).min_by_key(|waiting| waiting.schedule.due())
    }
}

impl<'a> Waiting<'a> {
    fn new(model: &'a Model, refusal: Refusal) -> Self {
        let seed = RandomState::new().hash_one(model.name.as_str());
        let mut schedule = Schedule::of_attempts(now(), INTERVAL, LONGEST, seed);
        schedule.failed(now(), refusal.retry_after);
        Self { model, schedule, refusal }
    }

    /// Records another failed attempt.
    fn failed(&mut self, refusal: Refusal) {
        self.schedule.failed(now(), refusal.retry_after);
        self.refusal = refusal;
    }
}

/// Returns the time by the clock that the pauses use, which tests can stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Returns whether the source is on another server and may become usable.
fn is_worth_waiting(model: &Model, refusal: &Refusal) -> bool {
    model.source.directory().is_none() && refusal.kind.is_transient()
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
