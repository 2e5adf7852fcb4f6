//! Terminates groups that take too long and kills workers that hang, as
//! [`overdue`](crate::dispatch::policy::overdue) decides.

use std::time::Instant;

use onnxd_telemetry::metrics::{KillReason, Reason};

use crate::dispatch::{
    actor::state::Dispatcher,
    policy::{overdue::OverdueAction, scheduler::ItemId},
};
use crate::pool::WorkerId;

impl Dispatcher {
    /// Returns when [`Dispatcher::enforce_deadlines`] must be called next.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        let sessions = self.workers.iter().map(|worker| &worker.session);
        sessions.filter_map(|session| session.next_due(&self.supervision)).min()
    }

    /// Terminates overdue groups and kills overdue workers.
    pub(super) fn enforce_deadlines(&mut self, now: Instant) {
        for id in 0..self.workers.len() {
            match self.workers[id].session.due(now, &self.supervision) {
                None => {}
                Some(OverdueAction::Terminate) => self.terminate(id, now),
                Some(OverdueAction::Kill(reason)) => self.kill_hung(id, reason),
            }
        }
    }

    fn terminate(&mut self, id: WorkerId, now: Instant) {
        let Self { workers, items, metrics, .. } = self;
        let deadline = |item: &ItemId| items.get(item).map(|accepted| accepted.item.deadline);
        if workers[id].terminate(deadline, now) {
            tracing::warn!(worker = id, "deadline passed, terminating the group");
            metrics.groups_terminated_total.increment();
        }
    }

    fn kill_hung(&mut self, id: WorkerId, kill: KillReason) {
        let reason = kill.label();
        tracing::error!(worker = id, reason, "killing unresponsive worker");
        self.metrics.workers_killed_total.increment(kill);
        self.workers[id].kill(Some(kill));
    }
}
