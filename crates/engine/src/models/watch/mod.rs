//! Watches the sources of models: checks at intervals whether their content has changed, and updates the
//! model when it has. Content that was refused is not tried again until it changes. Failures of a
//! source never touch what serves. Started by the server; [`schedule`](crate::models::schedule)
//! decides when to check.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use onnxd_proto::{
    control_page::Slot,
    domain::{Refusal, RefusalKind, Step},
};
use onnxd_telemetry::metrics::{Metrics, source::Check};
use tokio::sync::{Notify, mpsc};

use crate::{
    models::{
        gate::Presence,
        machine::events::Job,
        registry::{Model, Registry},
        requester::Requester,
        schedule::Schedule,
        sources::{Follow, SnapshotId, Transfer},
        store::{Store, seen::Seen},
        update::{Updater, background::Background},
    },
    tasks::EssentialTasks,
};

/// How often the source of a model that could not be loaded at start is checked, if it is not
/// watched anyway. Ends when the model is loaded.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Minimum time between two checks of a source, however many notifications arrive.
const CHECK_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Interval between log lines about a source that keeps failing.
const REMINDER: Duration = Duration::from_secs(60 * 60);

/// What is known about a model's configured source.
#[derive(Clone, Debug, Default)]
pub struct SourceState {
    /// The interval of checks; `None` if the source is not watched.
    pub interval: Option<Duration>,
    /// The snapshot that was seen last.
    pub snapshot: Option<String>,
    /// When the source answered last.
    pub last_checked: Option<SystemTime>,
    /// When its content was last seen to change.
    pub last_changed: Option<SystemTime>,
    /// The failure of the last check or update, until one succeeds.
    pub last_error: Option<String>,
    /// Checks so far.
    pub checks: u64,
    /// Checks that failed so far.
    pub failures: u64,
}

/// The watched sources of all models, by slot.
#[derive(Debug)]
pub struct Watches {
    store: Arc<Store>,
    watches: Vec<Watch>,
}

#[derive(Debug, Default)]
struct Watch {
    state: Mutex<SourceState>,
    /// Notified to check at once.
    check: Notify,
}

/// The dependencies of watching.
#[derive(Clone, Debug)]
pub struct Deps {
    pub registry: Arc<Registry>,
    pub updater: Arc<Updater>,
    pub store: Arc<Store>,
    pub metrics: Arc<Metrics>,
    pub background: Background,
    pub tasks: EssentialTasks,
}

impl Watches {
    /// Starts to watch the sources of models for which `interval` returns one, and of those that
    /// cannot be loaded at start until they are. Watching begins when the start is done.
    pub fn start(deps: &Deps, interval: impl Fn(&Model) -> Option<Duration>) -> Arc<Self> {
        let models = deps.registry.models();
        let watches = Arc::new(Self {
            store: Arc::clone(&deps.store),
            watches: models.iter().map(|_| Watch::default()).collect(),
        });
        for model in models {
            let interval = interval(model);
            watches.of(model).state().interval = interval;
            if interval.is_some() {
                deps.metrics.model(model.slot).source.watch();
            }
            let seen = deps.store.seen(model);
            watches.of(model).state().last_error =
                seen.as_ref().and_then(|seen| seen.refused.clone());
            let watcher = Watcher {
                deps: deps.clone(),
                watches: Arc::clone(&watches),
                model: Arc::clone(model),
                seen,
                reminded: None,
            };
            watcher.show(watcher.seen.as_ref().map(|seen| &seen.snapshot));
            deps.tasks.spawn(format!("source of {}", model.name), watcher.run(interval));
        }
        watches
    }

    /// Returns what is known about a model's source.
    pub fn state(&self, model: &Model) -> SourceState {
        let mut state = self.of(model).state().clone();
        // A start, a call or an earlier process may have staged a snapshot since the last check. One
        // that was refused is shown with its error.
        let conditions = model.rules.conditions(Requester::Poll, true);
        if state.last_error.is_none()
            && let Some(staged) = self.store.known_snapshot(&model.source, &conditions)
        {
            state.snapshot = Some(staged.as_str().to_owned());
        }
        state
    }

    /// Checks a model's source at once. Returns false if it is not watched.
    pub fn check_now(&self, model: &Model) -> bool {
        let watch = self.of(model);
        watch.check.notify_one();
        watch.state().interval.is_some()
    }

    fn of(&self, model: &Model) -> &Watch {
        &self.watches[usize::from(model.slot)]
    }
}

impl Watch {
    fn state(&self) -> MutexGuard<'_, SourceState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches the source of one model.
struct Watcher {
    deps: Deps,
    watches: Arc<Watches>,
    model: Arc<Model>,
    /// What the last checks saw, also those of an earlier process.
    seen: Option<Seen>,
    /// When a failure was logged last.
    reminded: Option<Instant>,
}

impl Watcher {
    async fn run(mut self, interval: Option<Duration>) {
        self.deps.updater.startup().done().await;
        if interval.is_some() {
            self.see_staged();
        }
        let seed = RandomState::new().hash_one(self.model.name.as_str());
        let mut schedule = Schedule::new(Instant::now(), interval.unwrap_or(RETRY_INTERVAL), seed);
        let mut paced = Instant::now();
        loop {
            if interval.is_none() && !self.is_missing() {
                // The end of an essential task would stop the server.
                std::future::pending::<()>().await;
            }
            tokio::select! {
                () = tokio::time::sleep_until(schedule.due().into()) => {}
                () = self.watches.of(&self.model).check.notified() => {}
            }
            // Senders can repeat notifications, and each check starts a process.
            tokio::time::sleep_until(paced.into()).await;
            paced = Instant::now() + CHECK_INTERVAL_MIN;
            // The content of a model that is not loaded is not needed; loading it reads the source.
            let is_loaded = self.model.gate.presence() == Presence::Loaded;
            let is_paused = self.deps.updater.is_paused();
            let result = match (is_loaded || self.is_missing()) && !is_paused {
                true => self.check().await,
                false => Ok(()),
            };
            match result {
                Ok(()) => schedule.succeeded(Instant::now()),
                Err(refusal) => {
                    self.failed(&refusal);
                    let (now, retry_after) = (Instant::now(), refusal.retry_after);
                    match refusal.kind {
                        RefusalKind::Incomplete => schedule.postponed(now, retry_after),
                        _ => schedule.failed(now, retry_after),
                    }
                }
            }
        }
    }

    /// Returns whether the model should serve, but could not be loaded.
    fn is_missing(&self) -> bool {
        let is_unused = self.model.gate.presence() == Presence::NotLoaded;
        self.model.preload && is_unused && self.model.failure().is_some()
    }

    /// Checks the source once and updates the model if its content has changed.
    ///
    /// # Errors
    /// The source or the update failed, and another attempt may succeed.
    #[expect(clippy::disallowed_methods, reason = "times of checks are for people to read")]
    async fn check(&mut self) -> Result<(), Refusal> {
        let (store, uri) = (Arc::clone(&self.deps.store), self.model.source.clone());
        let conditions = self.model.rules.conditions(Requester::Poll, true);
        let known = self.known();
        let before = known.clone();
        let (metrics, slot) = (Arc::clone(&self.deps.metrics), self.model.slot);
        let follow = FollowPeek { metrics, slot, updater: Arc::clone(&self.deps.updater) };
        let peek = move || store.peek(&uri, &conditions, before.as_ref(), &follow);
        let peeked = self.deps.background.run(peek).await;
        if peeked.is_err() && self.deps.updater.is_paused() {
            // Interrupted; see `FollowPeek`.
            return Ok(());
        }
        let (now, metrics) = (SystemTime::now(), self.deps.metrics.model(slot));
        metrics.source.checked(result_of(&peeked), now);
        {
            let mut state = self.watches.of(&self.model).state();
            state.checks += 1;
            if peeked.is_ok() {
                state.last_checked = Some(now);
            }
        }
        self.show(known.as_ref());
        let Some(snapshot) = peeked? else {
            self.recovered();
            return Ok(());
        };
        self.watches.of(&self.model).state().last_changed = Some(now);
        self.show(Some(&snapshot));
        tracing::info!(model = %self.model.name, source = %self.model.source, snapshot = snapshot.as_str(), "source changed, updating");
        let (progress, steps) = mpsc::channel::<Step>(1);
        drop(steps);
        let job = Job::from_source(None, onnxd_proto::domain::Load::default());
        let seen = self.seen.as_ref().and_then(|seen| seen.version.clone());
        let job = Job { requester: Requester::Poll, seen, ..job };
        match self.deps.updater.update(&self.model, job, progress).await {
            Ok(outcome) => {
                let version = Some(outcome.version);
                self.see(Seen { snapshot, version, refused: None });
            }
            // The source is usable, and the next check finds out whether the newer call served this content.
            Err(refusal) if refusal.kind == RefusalKind::Superseded => {}
            Err(refusal) if refusal.kind.is_transient() => return Err(refusal),
            Err(Refusal { message, .. }) => {
                // The updater has logged it.
                self.watches.of(&self.model).state().last_error = Some(message.clone());
                metrics.source.failed(SystemTime::now());
                self.see(Seen { snapshot, version: None, refused: Some(message) });
            }
        }
        self.recovered();
        Ok(())
    }

    /// Returns the snapshot that the source need not report again: it was served, even if something
    /// else serves now, or was refused.
    fn known(&self) -> Option<SnapshotId> {
        let is_missing = self.is_missing();
        match &self.seen {
            Some(seen) => (!is_missing || seen.refused.is_some()).then(|| seen.snapshot.clone()),
            None => None,
        }
    }

    /// Takes what was staged before or during the start for seen. Later, another model with the same
    /// source may have staged newer content.
    fn see_staged(&mut self) {
        if self.seen.is_none()
            && !self.is_missing()
            && let Some(snapshot) = self.deps.store.staged_snapshot(&self.model)
        {
            self.see(Seen { snapshot, version: None, refused: None });
        }
    }

    fn see(&mut self, seen: Seen) {
        self.deps.store.set_seen(&self.model, &seen);
        self.seen = Some(seen);
    }

    /// Shows a snapshot in the status and the metrics.
    fn show(&self, snapshot: Option<&SnapshotId>) {
        let snapshot = snapshot.map(SnapshotId::as_str);
        self.watches.of(&self.model).state().snapshot = snapshot.map(str::to_owned);
        self.deps.metrics.model(self.model.slot).source.set_snapshot(snapshot);
    }

    #[expect(clippy::disallowed_methods, reason = "times of failures are for people to read")]
    fn failed(&mut self, refusal: &Refusal) {
        self.deps.metrics.model(self.model.slot).source.failed(SystemTime::now());
        let is_new = {
            let mut state = self.watches.of(&self.model).state();
            state.failures += 1;
            state.last_error.replace(refusal.message.clone()).as_ref() != Some(&refusal.message)
        };
        // A source may stay away for days.
        if is_new || self.reminded.is_none_or(|reminded| reminded.elapsed() > REMINDER) {
            self.reminded = Some(Instant::now());
            let (kind, reason) = (refusal.kind, refusal.message.as_str());
            tracing::warn!(model = %self.model.name, ?kind, reason, "source not usable, what serves stays");
        }
    }

    fn recovered(&mut self) {
        let mut state = self.watches.of(&self.model).state();
        // A refused snapshot stays an error until the source changes.
        let is_refused = self.seen.as_ref().is_some_and(|seen| seen.refused.is_some());
        if !is_refused && state.last_error.take().is_some() {
            tracing::info!(model = %self.model.name, source = %self.model.source, "source usable again");
        }
    }
}

/// Counts the bytes of image layers. A succession does not wait for them.
struct FollowPeek {
    metrics: Arc<Metrics>,
    slot: Slot,
    updater: Arc<Updater>,
}

impl Follow for FollowPeek {
    fn report(&self, transfer: Transfer) {
        self.metrics.model(self.slot).source.downloaded(transfer.downloaded);
    }

    fn is_cancelled(&self) -> bool {
        self.updater.is_paused()
    }
}

/// Returns the result of a check for the metrics.
fn result_of(peeked: &Result<Option<SnapshotId>, Refusal>) -> Check {
    match peeked {
        Ok(None) => Check::Unchanged,
        Ok(Some(_)) => Check::Changed,
        Err(_) => Check::Failed,
    }
}
