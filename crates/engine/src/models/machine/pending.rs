//! Callers waiting for a model to serve, and the pause between failed attempts. Pure; part of a
//! model's [`machine`](crate::models::machine).

use std::time::{Duration, Instant};

use onnxd_proto::domain::{Load, Refusal, RefusalKind};

use crate::models::machine::{
    CALLERS_MAX, UpdateMachine,
    events::{Action, CallId, Committed, Payload},
    outcome::is_unloaded,
    presence::Presence,
};

/// Repeat the last refusal for this long after a failed load, instead of staging a broken source for
/// every request. Doubles with every consecutive failure, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Callers waiting for a model to serve.
#[derive(Debug, Default)]
pub(super) struct PendingLoads {
    callers: Vec<CallId>,
    load: Load,
    failed: Option<(Instant, Refusal)>,
    /// Consecutive failures.
    failures: u32,
}

impl PendingLoads {
    /// Adds a caller, or returns why it cannot wait.
    pub(super) fn add(&mut self, now: Instant, caller: CallId, load: Load) -> Result<(), Refusal> {
        let doublings = self.failures.saturating_sub(1).min(5);
        let pause = (PAUSE_MIN * (1 << doublings)).min(PAUSE_MAX);
        self.failed.take_if(|(at, _)| *at + pause <= now);
        if let Some((_, refusal)) = &self.failed {
            return Err(refusal.clone());
        }
        if self.callers.len() >= CALLERS_MAX {
            return Err(RefusalKind::Busy.because("too many requests are waiting for this model"));
        }
        self.callers.push(caller);
        self.load = load;
        Ok(())
    }

    /// Returns whether no caller waits.
    pub(super) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    /// Returns when workers should load the version.
    pub(super) fn load(&self) -> Load {
        self.load
    }

    /// Records a failed load.
    pub(super) fn failed(&mut self, now: Instant, refusal: &Refusal) {
        self.failed = Some((now, refusal.clone()));
        self.failures = self.failures.saturating_add(1);
    }

    /// Resets the failures, since the model serves, and returns the callers that waited.
    pub(super) fn served(&mut self) -> Vec<CallId> {
        (self.failed, self.failures) = (None, 0);
        self.take()
    }

    /// Removes and returns all callers.
    pub(super) fn take(&mut self) -> Vec<CallId> {
        std::mem::take(&mut self.callers)
    }
}

impl<P: Payload> UpdateMachine<P> {
    /// Answers at once if the model serves, else once it does.
    pub(super) fn request_load(&mut self, now: Instant, caller: CallId, load: Load) {
        if let Some(stop) = self.stopped {
            return self.actions.push(Action::Answer(caller, Err(stop.refusal())));
        }
        let result = match (self.presence(), &self.serving) {
            (Presence::Unloading | Presence::Unloaded, _) => Err(is_unloaded()),
            (_, Some((generation, version))) => {
                let (generation, version) = (*generation, version.as_ref().to_owned());
                Ok(Committed { generation, version, previous: generation, load })
            }
            (_, None) => match self.pending.add(now, caller, load) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
        };
        self.actions.push(Action::Answer(caller, result));
    }
}
