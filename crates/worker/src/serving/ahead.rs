//! Loads versions ahead of their commit, beside what is served, on a thread that yields to
//! serving. What is no longer served is freed there, too, and what a version needs less urgently is
//! made. Knows versions by name, and no
//! generations: when a version that stands ready is taken is [`crate::serving::refresh`]'s affair.

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

use crate::families::family::Later;

/// How much the thread yields, from 0 to 19: it gets about a quarter of a CPU that is busy.
const NICENESS: i32 = 5;
/// Versions that wait to be freed. Loading in the foreground may be faster than freeing in the
/// background; then the foreground frees.
const DISCARDED_MAX: usize = 2;

/// Things that need not be done at once and wait.
const LATER_MAX: usize = 64;

/// Characters of a reason that are passed on; it may quote a file, which has no limit.
const REASON_CHARS_MAX: usize = 1000;

/// Loads a version by name.
type Load<V> = Box<dyn Fn(&str) -> Result<V, Refusal> + Send + Sync>;
/// Tells the supervisor.
type Report = Box<dyn Fn(&FromWorker) + Send>;

/// Loads versions, in the foreground or ahead.
pub(crate) struct Loader<V>(Arc<Shared<V>>);

struct Shared<V> {
    load: Load<V>,
    state: Mutex<State<V>>,
    changed: Condvar,
}

/// At most one of each kind for each model.
struct State<V> {
    wanted: Vec<Wanted>,
    loading: Option<Wanted>,
    /// Whether what is being loaded has been replaced and will be dropped.
    replaced: bool,
    ready: Vec<(Wanted, V)>,
    discarded: Vec<V>,
    later: Vec<Later>,
    ended: bool,
}

/// What the supervisor asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    slot: Slot,
    version: String,
}

enum Job<V> {
    Free(V),
    Load(Wanted),
    Later(Later),
    End,
}

impl<V: Send + 'static> Loader<V> {
    /// Starts the thread, which idles until something is asked for.
    pub(crate) fn start(load: Load<V>, report: Report) -> io::Result<Self> {
        let state = State {
            wanted: Vec::new(),
            loading: None,
            replaced: false,
            ready: Vec::new(),
            discarded: Vec::new(),
            later: Vec::new(),
            ended: false,
        };
        let shared = Shared { load, state: Mutex::new(state), changed: Condvar::new() };
        let loader = Self(Arc::new(shared));
        let (shared, span) = (Arc::clone(&loader.0), Span::current());
        thread::Builder::new().name("ahead".into()).spawn(move || {
            let _span = span.entered();
            // On Linux this concerns the calling thread alone, setpriority(2).
            if let Err(error) = setpriority_process(None, NICENESS) {
                warn!(%error, "loading ahead competes with serving");
            }
            shared.work(&report);
        })?;
        Ok(loader)
    }

    /// Loads a version now, on the calling thread.
    pub(crate) fn load(&self, version: &str) -> Result<V, Refusal> {
        (self.0.load)(version)
    }

    /// Asks for a version, in the place of any other of this model. `true`: it stands ready.
    pub(crate) fn want(&self, slot: Slot, version: &str) -> bool {
        let wanted = Wanted { slot, version: version.to_owned() };
        let mut state = self.0.lock();
        state.wanted.retain(|other| other.slot != slot);
        if state.ready.iter().any(|(ready, _)| *ready == wanted) {
            return true;
        }
        state.discard_ready(slot);
        state.replaced |= state.loading.as_ref().is_some_and(|loading| loading.slot == slot);
        if state.loading.as_ref() == Some(&wanted) {
            state.replaced = false;
        } else {
            state.wanted.push(wanted);
        }
        self.0.changed.notify_one();
        false
    }

    /// Nothing of this model is wanted any more.
    pub(crate) fn forget(&self, slot: Slot) {
        let mut state = self.0.lock();
        state.wanted.retain(|other| other.slot != slot);
        state.replaced |= state.loading.as_ref().is_some_and(|loading| loading.slot == slot);
        state.discard_ready(slot);
        self.0.changed.notify_one();
    }

    /// This version of a model is not wanted any more; another one may be.
    pub(crate) fn forget_version(&self, slot: Slot, version: &str) {
        let this = Wanted { slot, version: version.to_owned() };
        let mut state = self.0.lock();
        state.wanted.retain(|other| *other != this);
        state.replaced |= state.loading.as_ref() == Some(&this);
        if state.ready.iter().any(|(ready, _)| *ready == this) {
            state.discard_ready(slot);
        }
        self.0.changed.notify_one();
    }

    /// Takes the version if it stands ready. Another one of this model that does is freed.
    pub(crate) fn take(&self, slot: Slot, version: &str) -> Option<V> {
        let mut state = self.0.lock();
        let place = state.ready.iter().position(|(ready, _)| ready.slot == slot)?;
        let (ready, content) = state.ready.swap_remove(place);
        if ready.version == version {
            return Some(content);
        }
        drop(state);
        self.discard(content);
        None
    }

    /// Does something in the background, when nothing is to be loaded or freed.
    pub(crate) fn later(&self, later: Later) {
        self.0.lock().push_later(later);
        self.0.changed.notify_one();
    }

    /// Frees what is not served any more, later.
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
    /// The oldest is most likely about a version that has gone.
    fn push_later(&mut self, later: Later) {
        if self.later.len() >= LATER_MAX {
            drop(self.later.remove(0));
        }
        self.later.push(later);
    }

    fn discard_ready(&mut self, slot: Slot) {
        let ready = mem::take(&mut self.ready);
        for (wanted, content) in ready {
            if wanted.slot == slot {
                self.discarded.push(content);
            } else {
                self.ready.push((wanted, content));
            }
        }
    }
}

impl<V> Shared<V> {
    /// Nothing that is done with the lock held leaves half a state behind, should it panic.
    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, report: &Report) {
        loop {
            match self.next() {
                Job::Free(content) => drop(content),
                Job::Later(later) => {
                    // What panics here serves nobody yet.
                    let _ = panic::catch_unwind(AssertUnwindSafe(later));
                }
                Job::Load(wanted) => {
                    if let Some(message) = self.load_ahead(wanted) {
                        report(&message);
                    }
                }
                Job::End => return,
            }
        }
    }

    /// Waits for something to do. Memory is given back before more is taken.
    fn next(&self) -> Job<V> {
        let mut state = self.lock();
        loop {
            if let Some(content) = state.discarded.pop() {
                return Job::Free(content);
            }
            if state.ended {
                return Job::End;
            }
            if !state.wanted.is_empty() {
                let wanted = state.wanted.remove(0);
                state.loading = Some(wanted.clone());
                state.replaced = false;
                return Job::Load(wanted);
            }
            if let Some(later) = state.later.pop() {
                return Job::Later(later);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nobody waits for the answer about a version that has been replaced meanwhile.
    fn load_ahead(&self, wanted: Wanted) -> Option<FromWorker> {
        let started = Instant::now();
        let loaded = panic::catch_unwind(AssertUnwindSafe(|| (self.load)(&wanted.version)))
            .unwrap_or_else(|panic| Err(RefusalKind::Internal.because(said(&*panic))));
        let took = started.elapsed();
        let Wanted { slot, version } = wanted.clone();
        let mut state = self.lock();
        state.loading = None;
        if state.replaced {
            drop(state);
            drop(loaded);
            return None;
        }
        match loaded {
            Ok(content) => {
                state.ready.push((wanted, content));
                drop(state);
                info!(slot, version, ?took, "version loaded ahead");
                Some(FromWorker::LoadedAhead { slot, version, load_micros: micros(took) })
            }
            Err(refusal) => {
                drop(state);
                warn!(slot, version, %refusal, "version not loaded ahead");
                let reason = brief(&refusal);
                Some(FromWorker::LoadAheadFailed { slot, version, reason })
            }
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("loading panicked: {}", text.unwrap_or("no message"))
}

/// A refusal as it is passed on.
pub(crate) fn brief(refusal: &Refusal) -> String {
    refusal.message.chars().take(REASON_CHARS_MAX).collect()
}

/// A time as it is passed on.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
