//! Groups that take too long and workers that do not go on. A group of which an item's deadline has
//! passed is terminated; a worker that does not obey, that somebody stopped, that does not get ready or
//! does not answer is killed after a grace, and what clients still wait for is computed by another.

use std::time::{Duration, Instant};

use crate::dispatch::{dispatcher::Dispatcher, scheduler::ItemId};
use crate::pool::{Supervision, WorkerId};
use onnxd_telemetry::metrics::{KillReason, Reason};

/// How long a worker may take to end a group that it was told to terminate.
const TERMINATE_GRACE: Duration = Duration::from_secs(1);

/// What the dispatcher waits for of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// An item of what it computes has a deadline.
    Group(Instant),
    /// It was told to terminate what it computes.
    Terminated(Instant),
    /// Its process is stopped.
    Stopped(Instant),
    /// Its process was started and is not ready.
    Starting(Instant),
    /// It has nothing to do and was sent a ping.
    Pinged(Instant),
}

impl Overdue {
    /// When something has to be done about it.
    pub(super) fn at(self, supervision: &Supervision) -> Instant {
        match self {
            Self::Group(deadline) => deadline,
            Self::Terminated(at) => at + TERMINATE_GRACE,
            Self::Stopped(since) => since + supervision.stopped_grace,
            Self::Starting(since) | Self::Pinged(since) => since + supervision.start_timeout,
        }
    }
}

impl Dispatcher {
    /// When [`Dispatcher::end_hangs`] has to be called next.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        let overdue = self.workers.iter().flat_map(|worker| worker.overdue());
        overdue.map(|overdue| overdue.at(&self.supervision)).min()
    }

    /// Terminates groups and kills workers whose time is over.
    pub(super) fn end_hangs(&mut self, now: Instant) {
        for id in 0..self.workers.len() {
            let supervision = &self.supervision;
            let over = self.workers[id].overdue().find(|what| what.at(supervision) <= now);
            match over {
                None => {}
                Some(Overdue::Group(_)) => self.terminate(id, now),
                // Whatever else is overdue: whoever is stopped can do nothing about it.
                Some(_) if self.workers[id].is_stopped() => self.kill_hung(id, KillReason::Stopped),
                Some(_) => self.kill_hung(id, KillReason::Hung),
            }
        }
    }

    fn terminate(&mut self, id: WorkerId, now: Instant) {
        let Self { workers, items, metrics, .. } = self;
        let deadline = |item: &ItemId| items.get(item).map(|accepted| accepted.item.deadline);
        if workers[id].terminate(deadline, now) {
            tracing::warn!(worker = id, "a group has passed a deadline and is terminated");
            metrics.groups_terminated_total.add();
        }
    }

    fn kill_hung(&mut self, id: WorkerId, kill: KillReason) {
        let reason = kill.label();
        tracing::error!(worker = id, reason, "worker does not go on and is killed");
        self.metrics.workers_killed_total.add(kill);
        self.workers[id].kill_hung(kill);
    }
}
