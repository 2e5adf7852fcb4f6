//! Loads versions ahead of their commit, next to the serving version, on a low-priority thread. The
//! thread also frees versions no longer served and runs deferred work. Knows versions by name and
//! no generations; [`crate::serving::refresh`] decides when to take a loaded version.

use std::{
    any::Any,
    io, mem,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use onnxd_proto::{
    control_page::Slot,
    domain::{Refusal, RefusalKind},
    wire::message::FromWorker,
};
use rustix::process::setpriority_process;
use tracing::{Span, info, warn};

use crate::families::family::DeferredJob;

/// Niceness of the thread, from 0 to 19. At 5 it gets about a quarter of a busy CPU.
const NICENESS: i32 = 5;
/// Maximum versions waiting to be freed. If loading in the foreground outpaces freeing in the
/// background, the foreground frees.
const DISCARDED_MAX: usize = 2;

/// Maximum deferred jobs.
const DEFERRED_MAX: usize = 64;

/// Maximum length of a reason in characters. Reasons may quote files, which have no limit.
const REASON_CHARS_MAX: usize = 1000;

/// Loads a version by name.
type Load<V> = Box<dyn Fn(&str) -> Result<V, Refusal> + Send + Sync>;
/// Sends a message to the supervisor.
type Report = Box<dyn Fn(&FromWorker) + Send>;

/// Loads versions, in the foreground or ahead.
pub(crate) struct Loader<V>(Arc<Shared<V>>);

struct Shared<V> {
    load: Load<V>,
    state: Mutex<State<V>>,
    changed: Condvar,
}

/// Holds at most one pending, loading and ready version per model.
struct State<V> {
    pending: Vec<LoadTarget>,
    loading: Option<LoadTarget>,
    /// Set when the version being loaded was replaced and will be dropped.
    replaced: bool,
    ready: Vec<(LoadTarget, V)>,
    discarded: Vec<V>,
    deferred: Vec<DeferredJob>,
    ended: bool,
}

/// A version that the supervisor asked to load, and its model's slot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LoadTarget {
    slot: Slot,
    version: String,
}

enum Job<V> {
    Free(V),
    Load(LoadTarget),
    Deferred(DeferredJob),
    End,
}

impl<V: Send + 'static> Loader<V> {
    /// Starts the thread, which idles until it gets work.
    pub(crate) fn start(load: Load<V>, report: Report) -> io::Result<Self> {
        let state = State {
            pending: Vec::new(),
            loading: None,
            replaced: false,
            ready: Vec::new(),
            discarded: Vec::new(),
            deferred: Vec::new(),
            ended: false,
        };
        let shared = Shared { load, state: Mutex::new(state), changed: Condvar::new() };
        let loader = Self(Arc::new(shared));
        let (shared, span) = (Arc::clone(&loader.0), Span::current());
        thread::Builder::new().name("ahead".into()).spawn(move || {
            let _span = span.entered();
            // On Linux this affects only the calling thread, setpriority(2).
            if let Err(error) = setpriority_process(None, NICENESS) {
                warn!(%error, "failed to lower the priority; loading ahead competes with serving");
            }
            shared.work(&report);
        })?;
        Ok(loader)
    }

    /// Loads a version now, on the calling thread.
    pub(crate) fn load(&self, version: &str) -> Result<V, Refusal> {
        (self.0.load)(version)
    }

    /// Requests a version, replacing any other pending or ready version of this model. Returns
    /// whether it is ready.
    pub(crate) fn request(&self, slot: Slot, version: &str) -> bool {
        let target = LoadTarget { slot, version: version.to_owned() };
        let mut state = self.0.lock();
        state.pending.retain(|other| other.slot != slot);
        if state.ready.iter().any(|(ready, _)| *ready == target) {
            return true;
        }
        state.discard_ready(slot);
        state.replaced |= state.loading.as_ref().is_some_and(|loading| loading.slot == slot);
        if state.loading.as_ref() == Some(&target) {
            state.replaced = false;
        } else {
            state.pending.push(target);
        }
        self.0.changed.notify_one();
        false
    }

    /// Drops everything of this model that is pending, loading or ready.
    pub(crate) fn forget(&self, slot: Slot) {
        let mut state = self.0.lock();
        state.pending.retain(|other| other.slot != slot);
        state.replaced |= state.loading.as_ref().is_some_and(|loading| loading.slot == slot);
        state.discard_ready(slot);
        self.0.changed.notify_one();
    }

    /// Drops this version of a model if it is pending, loading or ready. Keeps other versions.
    pub(crate) fn forget_version(&self, slot: Slot, version: &str) {
        let target = LoadTarget { slot, version: version.to_owned() };
        let mut state = self.0.lock();
        state.pending.retain(|other| *other != target);
        state.replaced |= state.loading.as_ref() == Some(&target);
        if state.ready.iter().any(|(ready, _)| *ready == target) {
            state.discard_ready(slot);
        }
        self.0.changed.notify_one();
    }

    /// Takes the version if it is ready. Frees any other ready version of this model.
    pub(crate) fn take(&self, slot: Slot, version: &str) -> Option<V> {
        let mut state = self.0.lock();
        let index = state.ready.iter().position(|(ready, _)| ready.slot == slot)?;
        let (ready, content) = state.ready.swap_remove(index);
        if ready.version == version {
            return Some(content);
        }
        drop(state);
        self.discard(content);
        None
    }

    /// Runs a job in the background once nothing is left to load or free.
    pub(crate) fn defer(&self, job: DeferredJob) {
        self.0.lock().push_deferred(job);
        self.0.changed.notify_one();
    }

    /// Frees a version that is no longer served, in the background if possible.
    pub(crate) fn discard(&self, content: V) {
        let mut state = self.0.lock();
        if state.discarded.len() < DISCARDED_MAX {
            state.discarded.push(content);
            self.0.changed.notify_one();
        } else {
            drop(state);
            drop(content);
        }
    }
}

impl<V> Drop for Loader<V> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

impl<V> State<V> {
    /// Adds a job. Over the limit, drops the oldest: its version has most likely been removed.
    fn push_deferred(&mut self, job: DeferredJob) {
        if self.deferred.len() >= DEFERRED_MAX {
            drop(self.deferred.remove(0));
        }
        self.deferred.push(job);
    }

    fn discard_ready(&mut self, slot: Slot) {
        let ready = mem::take(&mut self.ready);
        for (target, content) in ready {
            if target.slot == slot {
                self.discarded.push(content);
            } else {
                self.ready.push((target, content));
            }
        }
    }
}

impl<V> Shared<V> {
    /// Ignores poisoning: no critical section leaves the state inconsistent if it panics.
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, report: &Report) {
        loop {
            match self.next() {
                Job::Free(content) => drop(content),
                Job::Deferred(job) => {
                    // A panic here affects no request.
                    let _ = panic::catch_unwind(AssertUnwindSafe(job));
                }
                Job::Load(target) => {
                    if let Some(message) = self.load_ahead(target) {
                        report(&message);
                    }
                }
                Job::End => return,
            }
        }
    }

    /// Waits for the next job. Frees memory before allocating more.
    fn next(&self) -> Job<V> {
        let mut state = self.lock();
        loop {
            if let Some(content) = state.discarded.pop() {
                return Job::Free(content);
            }
            if state.ended {
                return Job::End;
            }
            if !state.pending.is_empty() {
                let target = state.pending.remove(0);
                state.loading = Some(target.clone());
                state.replaced = false;
                return Job::Load(target);
            }
            if let Some(job) = state.deferred.pop() {
                return Job::Deferred(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Loads a version. Returns the answer, or `None` if the version was replaced meanwhile.
    fn load_ahead(&self, target: LoadTarget) -> Option<FromWorker> {
        let started = Instant::now();
        let loaded = panic::catch_unwind(AssertUnwindSafe(|| (self.load)(&target.version)))
            .unwrap_or_else(|panic| Err(RefusalKind::Internal.because(panic_message(&*panic))));
        let took = started.elapsed();
        let LoadTarget { slot, version } = target.clone();
        let mut state = self.lock();
        state.loading = None;
        if state.replaced {
            drop(state);
            drop(loaded);
            return None;
        }
        match loaded {
            Ok(content) => {
                state.ready.push((target, content));
                drop(state);
                info!(slot, version, ?took, "version loaded ahead");
                Some(FromWorker::LoadedAhead { slot, version, load_micros: micros(took) })
            }
            Err(refusal) => {
                drop(state);
                warn!(slot, version, %refusal, "failed to load version ahead");
                let reason = brief(&refusal);
                Some(FromWorker::LoadAheadFailed { slot, version, reason })
            }
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("loading panicked: {}", text.unwrap_or("no message"))
}

/// Returns a refusal's message, truncated for the supervisor.
pub(crate) fn brief(refusal: &Refusal) -> String {
    refusal.message.chars().take(REASON_CHARS_MAX).collect()
}

/// Converts a duration for a message.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
