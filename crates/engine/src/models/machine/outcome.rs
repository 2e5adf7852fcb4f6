//! How what runs in a [`UpdateMachine`] ends: with a commit, with an unload, refused, or stopped; and who is
//! told.

use std::time::Instant;

use onnxd_proto::{
    domain::{Refusal, RefusalKind},
    generation::Generation,
};

use crate::models::machine::{
    Phase, Running, UpdateMachine,
    events::{Action, CallId, Committed, Target},
    is_unloaded,
    probation::Probation,
};

impl UpdateMachine {
    /// The record is durable: what has been prepared serves.
    pub(super) fn commit(&mut self, now: Instant, generation: Generation) {
        let Some(running) = self.running.take() else { return };
        self.actions.push(Action::Commit(generation));
        self.unloaded = false;
        let previous = self.serving.replace((generation, running.version.clone()));
        let before = previous.as_ref().map(|(_, version)| version);
        self.probation = match running.caller {
            // Back to what served before: nothing is new.
            None => None,
            Some(_) => {
                // It failed while this update was on its way.
                if let Some(failed) = self.probation.as_ref().filter(|before| before.has_failed())
                    && failed.version != running.version
                {
                    self.actions.push(Action::Quarantine(failed.version.clone()));
                }
                let until = now + self.times.probation;
                Probation::after(self.probation.take(), generation, &running.version, before, until)
            }
        };
        let previous = previous.map_or(0, |(generation, _)| generation);
        let load = running.job.load;
        let version = running.version;
        let committed = Committed { generation, version, previous, load };
        for caller in running.caller.into_iter().chain(self.pending.served()) {
            self.actions.push(Action::Answer(caller, Ok(committed.clone())));
        }
        let message = format!("superseded by a newer update, which is generation {generation}");
        self.refuse_all(running.superseded, &RefusalKind::Superseded.because(message));
    }

    pub(super) fn end_unload(&mut self) {
        let is_unloading = |running: &mut Running| matches!(running.phase, Phase::Unloading);
        let Some(running) = self.running.take_if(is_unloading) else { return };
        if let Some(failed) = self.probation.take().filter(Probation::has_failed) {
            self.actions.push(Action::Quarantine(failed.version));
        }
        let (previous, version) = self.serving.take().unwrap_or_default();
        self.unloaded = true;
        if let Some(caller) = running.caller {
            let unloaded = Committed { generation: 0, version, previous, load: running.job.load };
            self.actions.push(Action::Answer(caller, Ok(unloaded)));
        }
        let refusal = RefusalKind::Superseded.because("superseded by an unload");
        self.refuse_all(running.superseded, &refusal);
        let wanted = self.pending.take();
        self.refuse_all(wanted, &is_unloaded());
    }

    pub(super) fn refuse_all(&mut self, callers: Vec<CallId>, refusal: &Refusal) {
        let refuse = |caller| Action::Answer(caller, Err(refusal.clone()));
        self.actions.extend(callers.into_iter().map(refuse));
    }

    /// Ends the running update without a commit.
    pub(super) fn refuse(&mut self, now: Instant, refusal: &Refusal) {
        let Some(running) = self.running.take() else { return };
        let is_wanted = running.job.target == Target::Last;
        match running.caller {
            Some(caller) => self.actions.push(Action::Answer(caller, Err(refusal.clone()))),
            None if is_wanted => self.pending.failed(now, refusal),
            None => {
                // Two further failures try it again.
                self.probation = running.ends;
                self.actions.push(Action::RollbackFailed(refusal.clone()));
            }
        }
        if let Phase::Loading { .. } = &running.phase {
            // Who has loaded it already would keep it for nothing.
            self.actions.push(Action::Forget);
        }
        let message = format!("superseded by a newer update, which was refused: {refusal}");
        self.refuse_all(running.superseded, &RefusalKind::Superseded.because(message));
        // Who waits for something to serve may get it from the next update.
        if self.waiting.is_none() && (is_wanted || self.unloaded) {
            let wanted = self.pending.take();
            self.refuse_all(wanted, refusal);
        }
    }

    pub(super) fn stop(&mut self, now: Instant, reason: &'static str) {
        self.stopped = Some(reason);
        let refusal = RefusalKind::Busy.because(reason);
        // A record that may be durable already decides for itself, and so does what is dropped.
        let decided =
            |running: &Running| matches!(running.phase, Phase::Recording(_) | Phase::Unloading);
        if !self.running.as_ref().is_some_and(decided) {
            self.refuse(now, &refusal);
        }
        if let Some(waiting) = self.waiting.take() {
            self.refuse_all(waiting.superseded, &refusal);
            self.refuse_all(vec![waiting.caller], &refusal);
        }
        let wanted = self.pending.take();
        self.refuse_all(wanted, &refusal);
    }
}
