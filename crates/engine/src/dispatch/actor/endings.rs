//! What follows when a worker has ended: updates are told, what it had is computed by another, and
//! it is started again or given up.

use std::time::Instant;

use crate::dispatch::{
    actor::state::{Culprit, Dispatcher},
    policy::{
        restarts::Counts,
        session::{Blame, Finished, Progress},
    },
    worker::State,
};
use crate::{
    models::machine::events::{Cause, WorkerEvent},
    pool::{WorkerId, ended::Ended},
};

impl Dispatcher {
    /// When [`Dispatcher::end_unread`] has to be called next.
    pub(super) fn next_unread(&self) -> Option<Instant> {
        self.workers.iter().filter_map(|worker| worker.session.read_until()).min()
    }

    /// Gives up on sockets of ended processes that do not end.
    pub(super) fn end_unread(&mut self, now: Instant) {
        for id in 0..self.workers.len() {
            if self.workers[id].session.give_up_reading(now) == Progress::Over {
                tracing::error!(worker = id, "an ended worker's socket was not read to its end");
                self.over(id);
                // What it had may be another's now, and no event comes of this.
                self.hand_out();
            }
        }
    }

    /// A worker's process has ended; what it wrote may not have been read.
    pub(super) fn process_ended(&mut self, id: WorkerId, ended: Ended) {
        if self.workers[id].process_ended(ended, Instant::now()) == Progress::Over {
            self.over(id);
        }
    }

    /// A worker's socket has ended.
    pub(super) fn socket_ended(&mut self, id: WorkerId) {
        if self.workers[id].socket_ended() == Progress::Over {
            self.over(id);
        }
    }

    /// A worker broke the protocol: nothing that it may still say counts, and what it had is taken
    /// from it at once.
    pub(super) fn broke_protocol(&mut self, id: WorkerId) {
        self.requeue(id, Culprit::Worker);
        if self.workers[id].broke_protocol() == Progress::Over {
            self.over(id);
        }
    }

    /// A worker has ended, and all that it wrote has been read.
    pub(super) fn over(&mut self, id: WorkerId) {
        self.tell_ended(id);
        self.forgotten(id, None);
        let is_blameless = self.workers[id].session.ended().is_some_and(Ended::is_blameless);
        self.requeue(id, if is_blameless { Culprit::Other } else { Culprit::Worker });
        let jitter = f64::from(u32::try_from((id * 37 + 11) % 64).unwrap_or(0)) / 64.0;
        let now = Instant::now();
        if let Some(finished) = self.workers[id].finish(now, jitter) {
            self.settle_end(id, &finished, now);
        }
        if self.are_all_gone() {
            self.reject_all();
        }
    }

    /// Whether no worker is left, and none comes back.
    pub(super) fn are_all_gone(&self) -> bool {
        let mut states = self.workers.iter().map(|worker| worker.session.state());
        states.all(|state| matches!(state, State::Failed | State::Stopped))
    }

    /// Says and counts what becomes of a worker that has ended.
    fn settle_end(&mut self, id: WorkerId, finished: &Finished, now: Instant) {
        let Finished { ended, state, recycled, restarted, counts } = finished;
        match state {
            State::Backoff if *recycled => tracing::info!(worker = id, "worker recycled"),
            State::Stopped => tracing::info!(worker = id, "worker stopped"),
            State::Failed => {
                tracing::error!(worker = id, reason = ended.reason, "worker is given up");
            }
            _ => tracing::warn!(worker = id, reason = ended.reason, ?state, "worker ended"),
        }
        if *recycled {
            self.metrics.workers_recycled_total.add();
        } else if *restarted {
            self.metrics.worker_restarts_total.add(ended.restart_reason());
        }
        if *counts == Counts::Yes && !self.restarts.spend(now) {
            tracing::error!("workers end too often: all are given up");
            self.workers.iter_mut().for_each(|worker| worker.session.give_up());
        }
    }

    /// Tells the lines of updates that a worker's process ended, and which model is the cause if it
    /// ended while it loaded one. What it computed is in [`Dispatcher::requeue`].
    fn tell_ended(&self, id: WorkerId) {
        let committed = |slot| self.registry.page().committed(slot);
        let (blame, load) = self.workers[id].session.blame(committed);
        let event = match blame {
            Blame::Nothing => WorkerEvent::Absent(id),
            Blame::Killed => WorkerEvent::Ended(id, Cause::Killed),
            Blame::Fault => WorkerEvent::Ended(id, Cause::Fault),
        };
        for model in self.registry.models() {
            self.tell(model.slot, event.clone());
        }
        if let Some((slot, generation)) = load {
            self.tell(slot, WorkerEvent::Failed(generation));
        }
    }
}
