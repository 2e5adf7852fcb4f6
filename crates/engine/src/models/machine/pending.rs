//! Callers waiting for a model to serve, and the pause between failed attempts. Pure; part of a
//! model's [`machine`](crate::models::machine).

use std::time::{Duration, Instant};

use onnxd_proto::domain::{Refusal, RefusalKind};

use crate::models::machine::{CALLERS_MAX, events::CallId};
use onnxd_proto::domain::Load;

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
