//! Ends updates on request, as `onnxd update --cancel` does, or says why it does not. Pure; part of
//! a model's [`machine`](crate::models::machine).

use std::time::Instant;

use onnxd_proto::domain::{Refusal, RefusalKind};

use crate::models::machine::{
    Origin, Phase, Running, UpdateMachine, Waiting,
    events::{Action, Payload},
    outcome::is_unloaded,
};

impl<P: Payload> Phase<P> {
    /// Returns whether a step runs whose result must no longer count.
    fn has_step(&self) -> bool {
        matches!(
            self,
            Self::Staging | Self::Checking(_) | Self::ListingWorkers(_) | Self::Indexing { .. }
        )
    }

    /// Returns whether an update in this phase can still be ended. A proposed version may have a
    /// number already, and an unload is not an update.
    fn is_cancellable(&self) -> bool {
        self.has_step() || matches!(self, Self::Loading(_))
    }
}

impl<P: Payload> UpdateMachine<P> {
    /// Notes that the last commit took effect at `now`: it may have waited for responses.
    pub fn published(&mut self, now: Instant) {
        if let Some((_, at)) = &mut self.last_commit {
            *at = now;
        }
    }

    /// Ends the running and the waiting updates that were called for, and returns how many calls
    /// that ends. Loads for requests and automatic rollbacks go on. The call arrived at `called`.
    ///
    /// # Errors
    /// No update runs or waits, or it is too late to cancel it.
    pub fn cancel(
        &mut self,
        now: Instant,
        called: Instant,
    ) -> (Result<usize, Refusal>, Vec<Action<P>>) {
        let refusal = RefusalKind::Cancelled.because("cancelled by `onnxd update --cancel`");
        let is_update = |waiting: &mut Waiting<P::Version>| !waiting.job.is_unload();
        let mut updates = 0;
        if let Some(Waiting { caller, superseded, .. }) = self.waiting.take_if(is_update) {
            updates += 1 + superseded.len();
            self.refuse_all(superseded, &refusal);
            self.refuse_all(vec![caller], &refusal);
        }
        let is_cancellable = |running: &&Running<P>| {
            matches!(running.update.origin, Origin::Call(_)) && running.phase.is_cancellable()
        };
        if let Some(running) = self.running.as_ref().filter(is_cancellable) {
            updates += 1 + running.update.superseded.len();
            if running.phase.has_step() {
                self.actions.push(Action::AbortStep);
            }
            self.abort(now, &refusal);
        }
        let result = if updates == 0 { Err(self.not_cancelled(called)) } else { Ok(updates) };
        if self.running.is_none() && self.unloaded {
            // They waited for an update that would have loaded the model again.
            let pending = self.pending.take();
            self.refuse_all(pending, &is_unloaded());
        }
        self.next(now);
        (result, std::mem::take(&mut self.actions))
    }

    /// Returns why a call that arrived at `called` cancels nothing.
    fn not_cancelled(&self, called: Instant) -> Refusal {
        const NONE: &str = "no update is running or waiting";
        let too_late =
            |what: String| RefusalKind::Busy.because(format!("too late to cancel: {what}"));
        let none = |what: &str| RefusalKind::NotFound.because(format!("{NONE}; {what}"));
        match &self.running {
            Some(Running { update, phase }) => match (&update.origin, phase) {
                (Origin::FirstUse, _) => none("the model is being loaded"),
                (Origin::Rollback(_), _) => none("an automatic rollback is running"),
                (_, Phase::Draining | Phase::Unloading) => none("the model is being unloaded"),
                (_, Phase::Recording { generation, .. }) => {
                    too_late(format!("generation {generation} is being committed"))
                }
                (Origin::Call(_), _) => too_late("the new version is being committed".to_owned()),
            },
            None => match (self.last_commit, self.stopped) {
                // The commit was under way when the call arrived.
                (Some((generation, at)), _) if called < at => {
                    too_late(format!("generation {generation} is committed"))
                }
                (_, Some(stop)) => stop.refusal(),
                (_, None) => RefusalKind::NotFound.because(NONE),
            },
        }
    }
}

#[cfg(test)]
#[path = "cancel_tests.rs"]
mod tests;
