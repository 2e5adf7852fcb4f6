//! Publishes [`Health`] when it changes.

use onnxd_proto::exit::ExitStatus;

use crate::dispatch::{
    actor::{state::Dispatcher, worker::Worker},
    health::Health,
    policy::restarts::FAILED_STARTS_MAX,
    worker::State,
};

impl Dispatcher {
    /// Tells what has changed since the last time.
    pub(super) fn publish_health(&self) {
        let all = |state| self.workers.iter().all(|worker| worker.session.state() == state);
        let fatal = (all(State::Failed) || self.restarts.is_exceeded()).then(|| {
            let reason = self.workers.iter().find_map(|worker| worker.session.hopeless());
            match reason {
                Some(reason) => {
                    (ExitStatus::Configuration, format!("no worker can start: {reason}"))
                }
                None => (ExitStatus::Unavailable, self.given_up()),
            }
        });
        // Nothing waits for a worker that is given up.
        let settled = |Worker { session, .. }: &Worker| {
            session.was_ready() || session.state() == State::Failed
        };
        let health = Health {
            serving: self.workers.iter().filter(|worker| worker.session.serves()).count(),
            warmed_up: self.workers.iter().all(settled),
            stopped: fatal.is_none() && self.are_all_gone(),
            fatal,
        };
        self.health.send_if_modified(|present| {
            let modified = *present != health;
            *present = health;
            modified
        });
    }

    /// Why no worker is left.
    fn given_up(&self) -> String {
        let (one, all) = (self.supervision.restarts_max, self.restarts.limit());
        format!(
            "all workers failed: each may be started again {one} times within a minute, all of them {all} times, and \
             {FAILED_STARTS_MAX} starts in a row may fail; the log says how they ended. If that was \
             somebody's intention, raise --worker-restarts"
        )
    }
}
