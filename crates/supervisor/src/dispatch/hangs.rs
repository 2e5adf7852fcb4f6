//! Groups that take too long and workers that are stopped. A group of which an item's deadline has
//! passed is terminated; a worker that does not obey, or that somebody stopped, is killed after a
//! grace, and what clients still wait for is computed by another.

use std::time::{Duration, Instant};

use super::{dispatcher::Dispatcher, scheduler::ItemId};
use crate::pool::WorkerId;

/// How long a worker may take to end a group that it was told to terminate.
const TERMINATE_GRACE: Duration = Duration::from_secs(1);
/// How long a worker may be stopped before it is replaced.
const STOPPED_GRACE: Duration = Duration::from_secs(2);

/// What the dispatcher waits for of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// An item of what it computes has a deadline.
    Group(Instant),
    /// It was told to terminate what it computes.
    Terminated(Instant),
    /// Its process is stopped.
    Stopped(Instant),
}

impl Overdue {
    /// When something has to be done about it.
    pub(super) fn at(self) -> Instant {
        match self {
            Self::Group(deadline) => deadline,
            Self::Terminated(at) => at + TERMINATE_GRACE,
            Self::Stopped(since) => since + STOPPED_GRACE,
        }
    }
}

impl Dispatcher {
    /// When [`Dispatcher::end_hangs`] has to be called next.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.workers.iter().flat_map(|worker| worker.overdue()).map(Overdue::at).min()
    }

    /// Terminates groups and kills workers whose time is over.
    pub(super) fn end_hangs(&mut self, now: Instant) {
        for id in 0..self.workers.len() {
            let over = self.workers[id].overdue().find(|overdue| overdue.at() <= now);
            match over {
                None => {}
                Some(Overdue::Group(_)) => self.terminate(id, now),
                Some(Overdue::Terminated(_)) => self.kill_hung(id, "hung"),
                Some(Overdue::Stopped(_)) => self.kill_hung(id, "stopped"),
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

    fn kill_hung(&mut self, id: WorkerId, reason: &'static str) {
        tracing::error!(worker = id, reason, "worker does not go on and is killed");
        self.metrics.workers_killed_total.add(reason);
        self.workers[id].kill_hung();
    }
}
