//! Publishes [`Health`] when it changes.

use std::collections::BTreeMap;

use onnxd_proto::{control_page::Slot, exit::ExitStatus};

use crate::dispatch::{
    actor::{state::Dispatcher, worker::Worker},
    health::Health,
    policy::{placement, restarts::FAILED_STARTS_MAX},
    worker::State,
};

impl Dispatcher {
    /// Publishes the health of the workers if it changed.
    pub(super) fn publish_health(&self) {
        let all = |state| self.workers.iter().all(|worker| worker.session.state() == state);
        let fatal = (all(State::Failed) || self.restarts.is_exceeded()).then(|| {
            let reason = self.workers.iter().find_map(|worker| worker.session.unrecoverable());
            match reason {
                Some(reason) => {
                    (ExitStatus::Configuration, format!("no worker can start: {reason}"))
                }
                None => (ExitStatus::Unavailable, self.given_up()),
            }
        });
        // A worker that was given up never becomes ready, so do not wait for it.
        let settled = |Worker { session, .. }: &Worker| {
            session.was_ready() || session.state() == State::Failed
        };
        let health = Health {
            serving: self.workers.iter().filter(|worker| worker.session.serves()).count(),
            warmed_up: self.workers.iter().all(settled),
            unloadable: self.unloadable(),
            stopped: fatal.is_none() && self.none_left(),
            fatal,
        };
        self.health.send_if_modified(|present| {
            let modified = *present != health;
            *present = health;
            modified
        });
    }

    /// Returns the models that no serving worker can answer for, each with a reason.
    fn unloadable(&self) -> BTreeMap<Slot, String> {
        // Runs after every event, so the usual case must be cheap.
        if !self.workers.iter().any(|worker| worker.session.wants_retry()) {
            return BTreeMap::new();
        }
        let slots = self.registry.models().iter().map(|model| model.slot);
        let unloadable = slots.filter_map(|slot| {
            let committed = self.registry.page().committed(slot);
            placement::unloadable(&self.workers, slot, committed)
                .map(|reason| (slot, reason.to_owned()))
        });
        unloadable.collect()
    }

    /// Explains why no worker is left.
    fn given_up(&self) -> String {
        let (one, all) = (self.supervision.restarts_max, self.restarts.limit());
        format!(
            "all workers failed; the limits are {one} restarts per worker and {all} in total within a \
             minute, and {FAILED_STARTS_MAX} failed starts in a row; see the log for the exit \
             reasons. If the workers were stopped on purpose, raise --worker-restarts"
        )
    }
}
