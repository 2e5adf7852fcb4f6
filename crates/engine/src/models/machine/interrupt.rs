//! Interrupts an update that is staging, which may be an hour of downloading, or indexing, which may be
//! an hour of embedding. A rollback, an unload or a succession does not wait for it, and a call does not
//! wait for a poll. Pure; part of a model's [`machine`](crate::models::machine).

use onnxd_proto::domain::RefusalKind;

use crate::models::{
    machine::{
        Leftovers, Origin, Phase, Running, Update, UpdateMachine, Waiting,
        events::{Action, Job, Payload, Target},
    },
    requester::Requester,
};

impl Job {
    /// Returns whether the job never waits for a download.
    fn is_urgent(&self) -> bool {
        self.is_unload() || matches!(self.target, Target::Generation(_))
    }

    /// Returns whether the job interrupts another. A poll can be repeated, but newer calls
    /// must not keep an older one from ever ending.
    fn interrupts(&self, running: &Self) -> bool {
        let is_poll = |job: &Self| job.requester == Requester::Poll;
        self.is_urgent() || is_poll(running) && !is_poll(self)
    }
}

impl<P: Payload> Update<P> {
    /// Returns whether staging may read a source.
    fn reads_source(&self) -> bool {
        !matches!(self.origin, Origin::Rollback(_)) && !self.job.is_urgent()
    }
}

impl<P: Payload> UpdateMachine<P> {
    /// Returns whether the serving generation failed its probation.
    pub(super) fn is_rollback_due(&self) -> bool {
        let serving = self.serving.as_ref().map(|(generation, _)| *generation);
        let failed = self.probation.as_ref().filter(|probation| probation.has_failed());
        failed.is_some_and(|failed| serving == Some(failed.generation))
    }

    /// Interrupts staging or indexing if something must not wait for it. The update runs again
    /// afterwards, unless a newer call replaces it. Loads for requests stay pending.
    pub(super) fn interrupt(&mut self) {
        let must_not_wait = self.pauses > 0 || self.is_rollback_due();
        let waiting = self.waiting.as_ref().map(|waiting| &waiting.job);
        let is_interruptible = |running: &mut Running<P>| {
            let is_waited_for =
                must_not_wait || waiting.is_some_and(|job| job.interrupts(&running.update.job));
            let takes_long = match running.phase {
                Phase::Staging => running.update.reads_source(),
                // A version that served before lacks few vectors.
                Phase::Indexing { .. } => !matches!(running.update.origin, Origin::Rollback(_)),
                _ => false,
            };
            is_waited_for && takes_long
        };
        if self.stopped.is_some() {
            return;
        }
        let Some(Running { update, phase }) = self.running.take_if(is_interruptible) else {
            return;
        };
        self.actions.push(Action::AbortStep);
        if phase.leftovers() == Leftovers::Loaded {
            self.actions.push(Action::DropLoadedAhead);
        }
        let interrupted = match phase {
            Phase::Indexing { prepared, .. } => Some(prepared.version),
            _ => None,
        };
        let Update { job, origin: Origin::Call(caller), mut superseded } = update else { return };
        if self.waiting.is_none() {
            self.waiting = Some(Waiting { job, caller, superseded, _interrupted: interrupted });
            return;
        }
        superseded.push(caller);
        let message = "superseded by a newer call before it was prepared";
        self.refuse_all(superseded, &RefusalKind::Superseded.because(message));
    }
}
