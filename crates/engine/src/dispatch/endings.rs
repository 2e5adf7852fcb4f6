//! When a worker is over. Its process ends and its socket ends, in any order and told by different
//! threads; what it wrote before it died is an answer like any other. So nothing is taken from it
//! before both have ended. [`Ending`] is pure; the dispatcher tells it what happened.

use std::time::{Duration, Instant};

use crate::dispatch::{dispatcher::Dispatcher, worker::Worker};
use crate::{
    models::machine::events::{Cause, WorkerEvent},
    pool::{WorkerId, keeper::Ended, state::State},
};

/// How long what a worker wrote is read after its end: it lies in memory, so that only a reader
/// which hangs takes longer.
const READ_GRACE: Duration = Duration::from_secs(1);

/// How much of a worker has ended.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Whether more may be read from it.
    listens: bool,
    /// How its process ended, and when that was told.
    ended: Option<(Ended, Instant)>,
}

impl Ending {
    /// Its socket is read from now on.
    pub(super) fn connected(&mut self) {
        self.listens = true;
    }

    /// Whether what arrives counts.
    pub(super) fn listens(&self) -> bool {
        self.listens
    }

    /// Nothing more comes, or none of it counts. Says how the process ended if it is all over now.
    pub(super) fn deafen(&mut self) -> Option<Ended> {
        self.listens = false;
        self.ended.take().map(|(ended, _)| ended)
    }

    /// Its process has ended. Says so again if it is all over now.
    pub(super) fn process_ended(&mut self, ended: Ended, now: Instant) -> Option<Ended> {
        self.ended = Some((ended, now));
        if self.listens { None } else { self.deafen() }
    }

    /// Until when its socket is waited for.
    pub(super) fn at(&self) -> Option<Instant> {
        self.ended.as_ref().map(|(_, since)| *since + READ_GRACE)
    }

    /// Says how the process ended if its socket has been waited for long enough.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Ended> {
        if self.at().is_some_and(|at| at <= now) { self.deafen() } else { None }
    }
}

impl Dispatcher {
    /// When [`Dispatcher::end_unread`] has to be called next.
    pub(super) fn next_unread(&self) -> Option<Instant> {
        self.workers.iter().filter_map(|worker| worker.ending.at()).min()
    }

    /// Gives up on sockets of ended processes that do not end.
    pub(super) fn end_unread(&mut self, now: Instant) {
        for id in 0..self.workers.len() {
            if let Some(ended) = self.workers[id].ending.overdue(now) {
                tracing::error!(worker = id, "an ended worker's socket was not read to its end");
                self.over(id, &ended);
                // What it had may be another's now, and no event comes of this.
                self.hand_out();
            }
        }
    }

    /// A worker's process has ended; what it wrote may not have been read.
    pub(super) fn process_ended(&mut self, id: WorkerId, ended: Ended) {
        let worker = &mut self.workers[id];
        // It gets nothing more.
        worker.hang_up();
        if let Some(ended) = worker.ending.process_ended(ended, Instant::now()) {
            self.over(id, &ended);
        }
    }

    /// Nothing that a worker may still say counts. It may live on, which is of no use.
    pub(super) fn deafen(&mut self, id: WorkerId) {
        let worker = &mut self.workers[id];
        worker.hang_up();
        worker.kill();
        if let Some(ended) = worker.ending.deafen() {
            self.over(id, &ended);
        }
    }

    /// A worker has ended, and all that it wrote has been read.
    fn over(&mut self, id: WorkerId, ended: &Ended) {
        self.tell_ended(id, ended);
        self.forgotten(id, None);
        self.give_back(id, !ended.is_blameless());
        let jitter = f64::from(u32::try_from((id * 37 + 11) % 64).unwrap_or(0)) / 64.0;
        self.settle_end(id, ended, jitter);
        if self.are_all_gone() {
            self.reject_all();
        }
    }

    /// Whether no worker is left, and none comes back.
    pub(super) fn are_all_gone(&self) -> bool {
        let gone = |worker: &Worker| matches!(worker.state.state(), State::Failed | State::Stopped);
        self.workers.iter().all(gone)
    }

    /// Decides whether it is, and when.
    fn settle_end(&mut self, id: WorkerId, ended: &Ended, jitter: f64) {
        let (worker, now) = (&mut self.workers[id], Instant::now());
        let (restarts, recycled) = (worker.state.restarts(), worker.state.is_recycled());
        let counts = worker.ended(now, ended, jitter);
        let recycled = recycled && ended.code == Some(0);
        let state = worker.state.state();
        match state {
            State::Backoff if recycled => tracing::info!(worker = id, "worker recycled"),
            State::Stopped => tracing::info!(worker = id, "worker stopped"),
            State::Failed => {
                tracing::error!(worker = id, reason = ended.reason, "worker is given up");
            }
            _ => tracing::warn!(worker = id, reason = ended.reason, ?state, "worker ended"),
        }
        if recycled {
            self.metrics.workers_recycled_total.add();
        } else if worker.state.restarts() > restarts {
            self.metrics.worker_restarts_total.add(ended.restart_reason());
        }
        if counts && !self.restarts.spend(now) {
            tracing::error!("workers end too often: all are given up");
            self.workers.iter_mut().for_each(|worker| worker.state.give_up());
        }
    }

    /// Tells the lines that a worker's process ended, and which model is the cause if it ended
    /// while it loaded one at its start or when it was told to. Whoever ends in the middle of a
    /// group has been told of in [`Dispatcher::give_back`]; a worker that is killed while it is idle, that we end for other
    /// reasons, or for which there is no room, accuses nobody.
    fn tell_ended(&self, id: WorkerId, ended: &Ended) {
        let worker = &self.workers[id];
        let nobody = worker.was_stopped() || worker.state.is_recycled() || ended.scarce;
        let event = match worker.killed_by_us() {
            _ if nobody => WorkerEvent::Absent(id),
            None if ended.is_blameless() => WorkerEvent::Ended(id, Cause::Killed),
            _ => WorkerEvent::Ended(id, Cause::Fault),
        };
        for model in self.registry.models() {
            self.tell(model.slot, event.clone());
        }
        let committed = |slot| self.registry.page().committed(slot);
        let loaded = match worker.state.state() {
            _ if nobody => None,
            State::Starting => worker.is_loading(committed),
            // Asked by a ping, and not by a group.
            State::Ready if worker.pinged.is_some() && !ended.is_blameless() => {
                worker.is_behind(committed)
            }
            _ => None,
        };
        if let Some((slot, generation)) = loaded {
            self.tell(slot, WorkerEvent::Failed(generation));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash() -> Ended {
        Ended { code: None, signal: Some(11), reason: "signal 11".into(), scarce: false }
    }

    #[test]
    fn a_worker_is_over_when_its_process_and_its_socket_have_ended_in_whatever_order() {
        let now = Instant::now();
        let mut ending = Ending::default();
        ending.connected();
        assert_eq!(ending.process_ended(crash(), now), None);
        assert!(ending.listens(), "what it wrote before counts");
        assert_eq!(ending.deafen(), Some(crash()));
        assert!(!ending.listens());

        ending.connected();
        assert_eq!(ending.deafen(), None);
        assert!(
            !ending.listens() && ending.at().is_none(),
            "its process is killed, and waited for"
        );
        assert_eq!(ending.process_ended(crash(), now), Some(crash()));
    }

    #[test]
    fn a_worker_is_over_once() {
        let now = Instant::now();
        let mut ending = Ending::default();
        ending.connected();
        assert_eq!(ending.process_ended(crash(), now), None);
        assert_eq!(ending.overdue(now + READ_GRACE), Some(crash()));
        assert_eq!(ending.deafen(), None);
        assert_eq!(ending.overdue(now + READ_GRACE * 2), None);
    }

    #[test]
    fn a_process_that_was_not_started_has_no_socket_to_wait_for() {
        let mut ending = Ending::default();
        assert_eq!(ending.process_ended(crash(), Instant::now()), Some(crash()));
    }

    #[test]
    fn a_socket_that_does_not_end_is_waited_for_a_short_while() {
        let now = Instant::now();
        let mut ending = Ending::default();
        ending.connected();
        assert_eq!(ending.process_ended(crash(), now), None);
        assert_eq!(ending.at(), Some(now + READ_GRACE));
        assert_eq!(ending.overdue(now + READ_GRACE - Duration::from_millis(1)), None);
        assert_eq!(ending.overdue(now + READ_GRACE), Some(crash()));
        assert!(!ending.listens(), "what comes later was given to another");
    }
}
