//! hangs

use std::time::Instant;

use onnxd_telemetry::metrics::{KillReason, Reason};

use crate::dispatch::{
    actor::state::Dispatcher,
    policy::{overdue::Overdue, scheduler::ItemId},
};
use crate::pool::WorkerId;

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
