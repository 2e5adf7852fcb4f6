//! Handles a worker's exit: updates are notified, its unanswered items are requeued, and it is
//! restarted or given up.

use std::time::Instant;

use crate::dispatch::{
    actor::state::{Culprit, Dispatcher},
    policy::{
        restarts::CountsAsDeath,
        session::{Blame, Finished, Progress},
    },
    worker::State,
};
use crate::{
    models::machine::events::{Cause, WorkerEvent},
    pool::{WorkerId, process_exit::ProcessExit},
};

impl Dispatcher {
    /// Returns when [`Dispatcher::stop_unread`] must be called next.
    pub(super) fn next_unread(&self) -> Option<Instant> {
        self.workers.iter().filter_map(|worker| worker.session.read_until()).min()
    }

    /// Stops waiting for sockets that stay open after their process has exited.
    pub(super) fn stop_unread(&mut self, now: Instant) {
        for id in 0..self.workers.len() {
            if self.workers[id].session.give_up_reading(now) == Progress::Done {
                tracing::error!(worker = id, "exited worker's socket was not read to its end");
                self.finish_worker(id);
                // Its items may now go to another worker, and no event will trigger that.
                self.hand_out();
            }
        }
    }

    /// Handles the exit of a worker's process. Its last messages may still be unread.
    pub(super) fn process_ended(&mut self, id: WorkerId, exit: ProcessExit) {
        if self.workers[id].process_ended(exit, Instant::now()) == Progress::Done {
            self.finish_worker(id);
        }
    }

    /// Handles the closing of a worker's socket.
    pub(super) fn socket_ended(&mut self, id: WorkerId) {
        if self.workers[id].socket_ended() == Progress::Done {
            self.finish_worker(id);
        }
    }

    /// Handles a protocol violation: ignores all further messages of the worker and requeues its
    /// items immediately.
    pub(super) fn broke_protocol(&mut self, id: WorkerId) {
        self.requeue(id, Culprit::Worker);
        if self.workers[id].broke_protocol() == Progress::Done {
            self.finish_worker(id);
        }
    }

    /// Finishes a worker whose process has exited and whose messages have all been read.
    pub(super) fn finish_worker(&mut self, id: WorkerId) {
        self.report_exit(id);
        self.forgotten(id, None);
        let is_blameless = self.workers[id].session.exit().is_some_and(ProcessExit::is_blameless);
        self.requeue(id, if is_blameless { Culprit::Other } else { Culprit::Worker });
        let jitter = f64::from(u32::try_from((id * 37 + 11) % 64).unwrap_or(0)) / 64.0;
        let now = Instant::now();
        if let Some(finished) = self.workers[id].finish(now, jitter) {
            self.record_exit(id, &finished, now);
        }
        if self.none_left() {
            self.reject_all();
        }
    }

    /// Returns whether no worker is left and none will be restarted.
    pub(super) fn none_left(&self) -> bool {
        let mut states = self.workers.iter().map(|worker| worker.session.state());
        states.all(|state| matches!(state, State::Failed | State::Stopped))
    }

    /// Logs and counts what happens to a worker after its exit.
    fn record_exit(&mut self, id: WorkerId, finished: &Finished, now: Instant) {
        let Finished { exit, state, recycled, restarted, counts } = finished;
        match state {
            State::Backoff if *recycled => tracing::info!(worker = id, "worker recycled"),
            State::Stopped => tracing::info!(worker = id, "worker stopped"),
            State::Failed => {
                tracing::error!(worker = id, reason = exit.reason, "giving up on worker");
            }
            _ => tracing::warn!(worker = id, reason = exit.reason, ?state, "worker exited"),
        }
        if *recycled {
            self.metrics.workers_recycled_total.increment();
        } else if *restarted {
            self.metrics.worker_restarts_total.increment(exit.restart_reason());
        }
        if *counts == CountsAsDeath::Yes && !self.restarts.spend(now) {
            tracing::error!("workers exit too often, giving up on all");
            self.workers.iter_mut().for_each(|worker| worker.session.give_up());
        }
    }

    /// Notifies all update queues that a worker's process exited. If it exited during a load,
    /// reports the model as the cause. [`Dispatcher::requeue`] reports the groups it was computing.
    fn report_exit(&self, id: WorkerId) {
        let committed = |slot| self.registry.page().committed(slot);
        let (blame, load) = self.workers[id].session.blame(committed);
        let event = match blame {
            Blame::Nothing => WorkerEvent::Absent(id),
            Blame::Killed => WorkerEvent::Exited(id, Cause::Killed),
            Blame::Fault => WorkerEvent::Exited(id, Cause::Fault),
        };
        for model in self.registry.models() {
            self.notify(model.slot, event.clone());
        }
        if let Some((slot, generation)) = load {
            self.notify(slot, WorkerEvent::Failed(generation));
        }
    }
}
