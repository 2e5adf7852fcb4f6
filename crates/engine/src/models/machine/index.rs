//! Completing the indexes of a prepared version, without which it must not serve. Pure; part of a
//! model's [`machine`](crate::models::machine).

use std::time::Instant;

use onnxd_proto::domain::{Refusal, RefusalKind};

use crate::models::machine::{
    Phase, Prepared, Progress, Running, Update, UpdateMachine,
    events::{Action, Payload},
    phase::Leftovers,
};

impl<P: Payload> UpdateMachine<P> {
    /// Returns whether writes of the model's documents must be held back: its indexes are complete
    /// for a version that is being committed.
    pub fn holds_writes(&self) -> bool {
        let phase = self.running.as_ref().map(|running| &running.phase);
        matches!(phase, Some(Phase::Proposed { .. } | Phase::Recording { .. }))
    }

    /// Completes the indexes for a prepared version. Those of a generation that served before a restart
    /// were complete when it was committed. What lacks a vector since is embedded while it serves: it must
    /// not wait for that, nor for an index that cannot answer.
    pub(super) fn index(
        &mut self,
        now: Instant,
        update: Update<P>,
        prepared: Prepared<P>,
        ahead: bool,
    ) {
        if matches!(prepared.progress, Progress::Durable(..)) {
            return self.propose(now, update, prepared, ahead);
        }
        self.actions.push(Action::Index(update.job.clone(), prepared.version.clone()));
        self.running = Some(Running { update, phase: Phase::Indexing { prepared, ahead } });
    }

    pub(super) fn indexed(&mut self, now: Instant, result: Result<(), Refusal>) {
        let Some(Running { update, phase: Phase::Indexing { prepared, ahead } }) =
            self.take_running(|phase| matches!(phase, Phase::Indexing { .. }))
        else {
            return;
        };
        match result {
            Err(refusal) if !self.may_lack_indexes(&update, refusal.kind) => {
                self.refuse(now, update, Leftovers::after(ahead), &refusal);
            }
            Ok(()) | Err(_) => self.propose(now, update, prepared, ahead),
        }
    }

    /// Returns whether a version is better committed without its indexes than not at all: a rollback is
    /// the way out of a version that fails; and while nothing serves, an index that cannot answer would
    /// keep all requests from being answered. Searches are refused until the indexes are complete.
    fn may_lack_indexes(&self, update: &Update<P>, refusal: RefusalKind) -> bool {
        let cannot_answer = matches!(refusal, RefusalKind::Internal | RefusalKind::Busy);
        update.is_rollback() || self.serving.is_none() && cannot_answer
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
