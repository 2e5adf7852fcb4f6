//! Ends updates on request, as `onnxd update --cancel` does. Pure; part of a model's
//! [`machine`](crate::models::machine).

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
        matches!(self, Self::Staging | Self::Checking(_) | Self::ListingWorkers(_))
    }

    /// Returns whether an update in this phase can still be ended. A proposed version may have a
    /// number already, and an unload is not an update.
    fn is_cancellable(&self) -> bool {
        self.has_step() || matches!(self, Self::Loading(_))
    }
}

impl<P: Payload> UpdateMachine<P> {
    /// Ends the running and the waiting updates that were called for, and returns how many calls
    /// that ends. Loads for requests and automatic rollbacks go on.
    ///
    /// # Errors
    /// No update runs or waits, or it is too late to cancel it.
    pub fn cancel(&mut self, now: Instant) -> (Result<usize, Refusal>, Vec<Action<P>>) {
        let refusal = RefusalKind::Cancelled.because("cancelled by `onnxd update --cancel`");
        let is_update = |waiting: &mut Waiting| !waiting.job.is_unload();
        let mut updates = 0;
        if let Some(Waiting { caller, superseded, .. }) = self.waiting.take_if(is_update) {
            updates += 1 + superseded.len();
            self.refuse_all(superseded, &refusal);
            self.refuse_all(vec![caller], &refusal);
        }
        let is_called = |running: &&Running<P>| matches!(running.update.origin, Origin::Call(_));
        let running = self.running.as_ref().filter(is_called);
        let is_too_late = running.is_some_and(|running| !running.phase.is_cancellable());
        if let Some(running) = running.filter(|running| running.phase.is_cancellable()) {
            updates += 1 + running.update.superseded.len();
            if running.phase.has_step() {
                self.actions.push(Action::AbortStep);
            }
            self.abort(now, &refusal);
        }
        let result = match updates {
            0 if is_too_late => {
                Err(RefusalKind::NotFound.because("too late to cancel: the commit is decided"))
            }
            0 => Err(RefusalKind::NotFound.because("no update is running or waiting")),
            updates => Ok(updates),
        };
        if self.running.is_none() && self.unloaded {
            // They waited for an update that would have loaded the model again.
            let pending = self.pending.take();
            self.refuse_all(pending, &is_unloaded());
        }
        self.next(now);
        (result, std::mem::take(&mut self.actions))
    }
}

#[cfg(test)]
#[path = "cancel_tests.rs"]
mod tests;
