//! Who waits until a model serves, and how soon a failed attempt is repeated. Pure; part of a
//! model's [`machine`](crate::models::machine).

use std::time::{Duration, Instant};

use onnxd_proto::domain::{Refusal, RefusalKind};

use crate::models::machine::{CALLERS_MAX, events::CallId};
use onnxd_proto::domain::Load;

/// So long the reason why a model could not be loaded is given again rather than a broken source
/// staged for every request. Doubles with every failure in a row, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Those who wait.
#[derive(Debug, Default)]
pub(super) struct PendingLoads {
    callers: Vec<CallId>,
    load: Load,
    failed: Option<(Instant, Refusal)>,
    /// In a row.
    failures: u32,
}

impl PendingLoads {
    /// One more waits; an error says why it does not.
    pub(super) fn add(&mut self, now: Instant, caller: CallId, load: Load) -> Result<(), Refusal> {
        let doublings = self.failures.saturating_sub(1).min(5);
        let pause = (PAUSE_MIN * (1 << doublings)).min(PAUSE_MAX);
        self.failed.take_if(|(at, _)| *at + pause <= now);
        if let Some((_, refusal)) = &self.failed {
            return Err(refusal.clone());
        }
        if self.callers.len() >= CALLERS_MAX {
            return Err(RefusalKind::Busy.because("too many requests wait for this model already"));
        }
        self.callers.push(caller);
        self.load = load;
        Ok(())
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    /// When workers are to load it.
    pub(super) fn load(&self) -> Load {
        self.load
    }

    /// Loading it for them has failed.
    pub(super) fn failed(&mut self, now: Instant, refusal: &Refusal) {
        self.failed = Some((now, refusal.clone()));
        self.failures = self.failures.saturating_add(1);
    }

    /// Something serves; gives those who waited for it.
    pub(super) fn served(&mut self) -> Vec<CallId> {
        (self.failed, self.failures) = (None, 0);
        self.take()
    }

    /// Nobody waits any more; gives those who did.
    pub(super) fn take(&mut self) -> Vec<CallId> {
        std::mem::take(&mut self.callers)
    }
}
