//! Acts on groups that take too long and on workers that do not go on. See
//! [`overdue`](crate::dispatch::policy::overdue).

use std::time::Instant;

use onnxd_telemetry::metrics::{KillReason, Reason};

use crate::dispatch::{
    actor::state::Dispatcher,
    policy::{overdue::Due, scheduler::ItemId},
};
use crate::pool::WorkerId;

impl Dispatcher {
    /// When [`Dispatcher::end_hangs`] has to be called next.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        let sessions = self.workers.iter().map(|worker| &worker.session);
        sessions.filter_map(|session| session.next_due(&self.supervision)).min()
    }

    /// Terminates groups and kills workers whose time is over.
    pub(super) fn end_hangs(&mut self, now: Instant) {
        for id in 0..self.workers.len() {
            match self.workers[id].session.due(now, &self.supervision) {
                None => {}
                Some(Due::Terminate) => self.terminate(id, now),
                Some(Due::Kill(reason)) => self.kill_hung(id, reason),
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
        self.workers[id].kill(Some(kill));
    }
}
