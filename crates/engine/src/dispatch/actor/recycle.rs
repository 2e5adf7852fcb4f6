//! Recycles workers that use too much memory.

use std::time::Instant;

use onnxd_telemetry::metrics::process;

use crate::dispatch::{actor::state::Dispatcher, policy::recycling::END_GRACE, worker::State};
use crate::pool::WorkerId;

impl Dispatcher {
    /// Returns when [`Dispatcher::recycle`] must be called next.
    pub(super) fn next_memory_check(&self) -> Option<Instant> {
        let exit_by = self.recycling.workers.iter().filter_map(|record| record.exit_by);
        exit_by.chain(self.recycling.check_at()).min()
    }

    /// Checks the memory of a worker that has just become ready.
    pub(super) fn check_memory_at_ready(&mut self, id: WorkerId) {
        let Some(limit_bytes) = self.recycling.limit_bytes else { return };
        let bytes = self.memory_bytes(id);
        if self.recycling.ready(id, bytes) {
            tracing::error!(
                worker = id,
                memory_mib = bytes >> 20,
                limit_mib = limit_bytes >> 20,
                "worker exceeds --worker-memory right after its start, so it is not recycled; raise the limit or serve fewer models"
            );
        }
    }

    /// Starts recycling a worker if one is due, and continues any recycling in progress.
    pub(super) fn recycle(&mut self, now: Instant) {
        for id in 0..self.workers.len() {
            self.continue_recycling(id, now);
        }
        let Some(id) = self.recycling.worker_to_check(now) else { return };
        // A worker that was given up does not come back, so do not wait for it.
        let serves = |state| matches!(state, State::Ready | State::Busy | State::Failed);
        if !self.workers.iter().all(|worker| serves(worker.session.state())) {
            return;
        }
        let bytes = self.memory_bytes(id);
        if self.recycling.is_due(now, id, bytes) && self.workers[id].session.recycle() {
            let limit_mib = self.recycling.limit_bytes.map(|bytes| bytes >> 20);
            tracing::warn!(
                worker = id,
                memory_mib = bytes >> 20,
                limit_mib,
                "worker exceeds --worker-memory, recycling it"
            );
            self.recycling.workers[id].recycled_at = Some(now);
            self.continue_recycling(id, now);
        }
    }

    /// Hangs up on a recycling worker once it has answered everything, and kills it after a grace
    /// period.
    fn continue_recycling(&mut self, id: WorkerId, now: Instant) {
        let (worker, record) = (&mut self.workers[id], &mut self.recycling.workers[id]);
        if !worker.session.is_recycled() {
            record.exit_by = None;
        } else if worker.session.groups().unanswered().next().is_none() {
            worker.hang_up();
            if *record.exit_by.get_or_insert(now + END_GRACE) <= now {
                record.exit_by = Some(now + END_GRACE);
                worker.kill(None);
            }
        }
    }

    fn memory_bytes(&self, id: WorkerId) -> u64 {
        // Reading a file in /proc takes microseconds.
        let pid = self.workers[id].pid().map(|pid| pid.to_string());
        pid.map_or(0, |pid| process::memory_bytes(&pid, "RssAnon"))
    }
}
