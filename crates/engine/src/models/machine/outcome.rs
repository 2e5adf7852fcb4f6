//! Ends the running job of an [`UpdateMachine`] by commit, unload, refusal or stop, and answers its
//! callers.

use std::time::Instant;

use onnxd_proto::{
    domain::{Refusal, RefusalKind},
    generation::Generation,
};

use crate::models::machine::{
    Leftovers, Origin, Phase, Probation, Running, Update, UpdateMachine,
    events::{Action, CallId, Committed, Job, Payload, Stop},
};
use crate::models::requester::Requester;

/// Returns the refusal for requests to a model that was unloaded.
pub(super) fn is_unloaded() -> Refusal {
    RefusalKind::NotFound.because("the model is unloaded")
}

impl<P: Payload> UpdateMachine<P> {
    /// Commits the prepared version, whose record is durable.
    pub(super) fn commit(
        &mut self,
        now: Instant,
        update: Update<P>,
        (generation, version): (Generation, P::Version),
        (record, ahead): (P::Record, bool),
    ) {
        self.actions.push(Action::Commit { generation, record, ahead });
        self.unloaded = false;
        // What a start restores says nothing about an update that the last server did not finish.
        let with_indexes = !matches!(update.origin, Origin::FirstUse);
        self.last_commit = update.caller().map(|_| (generation, now));
        let previous = self.serving.replace((generation, version.clone()));
        let before = previous.as_ref().map(|(_, version)| version);
        self.probation = match update.origin {
            // A first use replaces nothing, and a rollback target has served before.
            Origin::FirstUse | Origin::Rollback(_) => None,
            Origin::Call(_) => {
                // The previous version failed while this update was running.
                if let Some(failed) = self.probation.as_ref().filter(|before| before.has_failed())
                    && failed.version != version
                {
                    self.actions.push(Action::Quarantine(failed.version.as_ref().to_owned()));
                }
                let until = now + self.times.probation;
                Probation::after(self.probation.take(), generation, &version, before, until)
            }
        };
        let previous = previous.map_or(0, |(generation, _)| generation);
        let (version, load) = (version.as_ref().to_owned(), update.job.load);
        let committed = Committed { generation, version, previous, load };
        for caller in update.caller().into_iter().chain(self.pending.served()) {
            self.actions.push(Action::Answer(caller, Ok(committed.clone())));
        }
        let message = format!("superseded by a newer update, which is generation {generation}");
        self.refuse_all(update.superseded, &RefusalKind::Superseded.because(message));
        self.actions.push(Action::Retire { with_indexes });
    }

    /// Returns whether this version serves.
    pub(super) fn serves(&self, version: &P::Version) -> bool {
        self.serving.as_ref().is_some_and(|(_, serving)| serving == version)
    }

    /// Returns whether a poll found a version that serves, or that it saw before.
    pub(super) fn is_old_news(&self, job: &Job, version: &P::Version) -> bool {
        let is_seen = self.serving.is_some() && job.seen.as_deref() == Some(version.as_ref());
        job.requester == Requester::Poll && (is_seen || self.serves(version))
    }

    /// Ends an update to `version` without a new generation.
    pub(super) fn keep_serving(&mut self, update: Update<P>, version: &P::Version) {
        let generation = self.serving.as_ref().map_or(0, |(generation, _)| *generation);
        let (version, load) = (version.as_ref().to_owned(), update.job.load);
        let unchanged = Committed { generation, version, previous: generation, load };
        if let Some(caller) = update.caller() {
            self.actions.push(Action::Answer(caller, Ok(unchanged)));
        }
        let message = format!("superseded by a newer update, which left generation {generation}");
        self.refuse_all(update.superseded, &RefusalKind::Superseded.because(message));
    }

    pub(super) fn end_unload(&mut self) {
        let Some(Running { update, .. }) =
            self.take_running(|phase| matches!(phase, Phase::Unloading))
        else {
            return;
        };
        if let Some(failed) = self.probation.take().filter(Probation::has_failed) {
            self.actions.push(Action::Quarantine(failed.version.as_ref().to_owned()));
        }
        let serving = self.serving.take();
        let (previous, version) = serving
            .map(|(number, version)| (number, version.as_ref().to_owned()))
            .unwrap_or_default();
        self.unloaded = true;
        if let Some(caller) = update.caller() {
            let unloaded = Committed { generation: 0, version, previous, load: update.job.load };
            self.actions.push(Action::Answer(caller, Ok(unloaded)));
        }
        let refusal = RefusalKind::Superseded.because("superseded by an unload");
        self.refuse_all(update.superseded, &refusal);
        let pending = self.pending.take();
        self.refuse_all(pending, &is_unloaded());
    }

    pub(super) fn refuse_all(&mut self, callers: Vec<CallId>, refusal: &Refusal) {
        let refuse = |caller| Action::Answer(caller, Err(refusal.clone()));
        self.actions.extend(callers.into_iter().map(refuse));
    }

    /// Ends the running update without a commit, in any phase.
    pub(super) fn abort(&mut self, now: Instant, refusal: &Refusal) {
        if let Some(Running { update, phase }) = self.running.take() {
            self.refuse(now, update, phase.leftovers(), refusal);
        }
    }

    /// Ends an update without a commit.
    pub(super) fn refuse(
        &mut self,
        now: Instant,
        update: Update<P>,
        leftovers: Leftovers,
        refusal: &Refusal,
    ) {
        let is_first_use = matches!(update.origin, Origin::FirstUse);
        match update.origin {
            Origin::Call(caller) => {
                self.actions.push(Action::Answer(caller, Err(refusal.clone())));
            }
            Origin::FirstUse => self.pending.failed(now, refusal),
            Origin::Rollback(failed) => {
                // Two further failures trigger another attempt.
                self.probation = Some(failed.restarted());
                self.actions.push(Action::RollbackFailed(refusal.clone()));
            }
        }
        if leftovers == Leftovers::Loaded {
            // Workers that have loaded it would keep it in memory for nothing.
            self.actions.push(Action::DropLoadedAhead);
        }
        let message = format!("superseded by a newer update, which was refused: {refusal}");
        self.refuse_all(update.superseded, &RefusalKind::Superseded.because(message));
        // If an update is waiting, it may still serve the pending loads.
        if self.waiting.is_none() && (is_first_use || self.unloaded) {
            let pending = self.pending.take();
            self.refuse_all(pending, refusal);
        }
        if leftovers != Leftovers::Nothing {
            self.actions.push(Action::Retire { with_indexes: false });
        }
    }

    pub(super) fn stop(&mut self, now: Instant, stop: Stop) {
        self.stopped = Some(stop);
        let refusal = stop.refusal();
        // A record may be durable already, and dropped versions are gone: both must run to the end.
        let decided = |running: &Running<P>| {
            matches!(running.phase, Phase::Recording { .. } | Phase::Unloading)
        };
        if !self.running.as_ref().is_some_and(decided) {
            self.abort(now, &refusal);
        }
        if let Some(waiting) = self.waiting.take() {
            self.refuse_all(waiting.superseded, &refusal);
            self.refuse_all(vec![waiting.caller], &refusal);
        }
        let pending = self.pending.take();
        self.refuse_all(pending, &refusal);
    }
}
