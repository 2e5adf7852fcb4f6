//! The updates of one model as a pure state machine: it takes events with their time and returns
//! actions. [`crate::models::update`] carries out the actions and reports the results.
//!
//! ```text
//!  idle ─► staging ─► checking ─► loading (ahead, one worker after the other) ─► indexing ─► proposed ─► recording ─► idle
//!   │       rollback ───────────►┘      lazy, or the same version ─────────────►┘              decided    commit
//! ```
//!
//! A failure before the record is durable leaves the serving generation untouched. One update runs
//! and one waits. A newer call supersedes the waiting one, whose callers learn which generation
//! replaced it. A rollback, an unload or a pause [interrupts](interrupt) staging and indexing, which
//! may take hours.
//! After a commit the new version is on probation: if its workers fail twice in that time, the machine
//! rolls back.
//!
//! A prepared version is *proposed*; the coordinator *decides* whether it becomes a generation, and
//! assigns the number. Until then the update can be aborted; after that its number is used up.
//! An unload is a job as well: draining, unloading, idle. Requests that arrive while nothing serves
//! share one load, see [`PendingLoads`].

mod ahead;
mod cancel;
pub mod events;
mod index;
mod interrupt;
mod outcome;
mod pace;
mod pending;
mod phase;
pub mod presence;
mod probation;

use std::time::{Duration, Instant};

use onnxd_proto::{
    domain::{Load, Refusal, RefusalKind},
    generation::Generation,
};

use crate::models::machine::{
    events::{
        Action, CallId, Candidate, Content, Decision, Event, Job, Payload, Proposal, Stop, Target,
        WorkerEvent,
    },
    pace::Pace,
    pending::PendingLoads,
    phase::{Leftovers, Loading, Origin, Phase, Prepared, Progress, Running, Update},
    presence::Presence,
    probation::Probation,
};

/// Maximum callers waiting for one model. More are refused.
pub const CALLERS_MAX: usize = 4096;

/// Time limits of updates.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Time for one worker to load ahead; then the update continues without it.
    pub load_ahead: Duration,
    /// Length of the probation after a commit.
    pub probation: Duration,
}

/// One model's updates.
#[derive(Debug)]
pub struct UpdateMachine<P: Payload> {
    times: Times,
    /// The highest number ever issued.
    last: Generation,
    serving: Option<(Generation, P::Version)>,
    running: Option<Running<P>>,
    waiting: Option<Waiting<P::Version>>,
    pace: Pace,
    probation: Option<Probation<P::Version>>,
    pending: PendingLoads,
    /// The last commit that a caller requested, and when it took effect.
    last_commit: Option<(Generation, Instant)>,
    /// Whether the model was unloaded on request.
    unloaded: bool,
    /// Pauses that keep new updates from starting. Counted, because a successor pauses until its
    /// predecessor exits and may meanwhile be succeeded itself.
    pauses: u32,
    /// Why no further update is decided.
    stopped: Option<Stop>,
    /// Actions caused by the event being handled.
    actions: Vec<Action<P>>,
}

/// The next update.
#[derive(Debug)]
struct Waiting<V> {
    job: Job,
    caller: CallId,
    superseded: Vec<CallId>,
    /// The version whose indexing was interrupted. It and its vectors stay until the update runs again.
    _interrupted: Option<V>,
}

impl<P: Payload> UpdateMachine<P> {
    /// Returns a machine that has issued numbers up to `last` and serves `serving`.
    pub fn new(last: Generation, serving: Option<(Generation, P::Version)>, times: Times) -> Self {
        Self {
            times,
            last,
            serving,
            running: None,
            waiting: None,
            pace: Pace::default(),
            probation: None,
            pending: PendingLoads::default(),
            last_commit: None,
            unloaded: false,
            pauses: 0,
            stopped: None,
            actions: Vec::new(),
        }
    }

    /// Returns the caller that requested the running update.
    pub fn caller(&self) -> Option<CallId> {
        self.running.as_ref()?.update.caller()
    }

    /// Returns whether no update is running.
    pub fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Returns the model's presence.
    pub fn presence(&self) -> Presence {
        let running = self.running.as_ref().map(|running| &running.update.job);
        let waiting = self.waiting.as_ref().map(|waiting| &waiting.job);
        match &self.serving {
            _ if running.is_some_and(Job::is_unload) => Presence::Unloading,
            Some(_) => Presence::Loaded,
            None if running.or(waiting).is_some_and(|job| !job.is_unload()) => Presence::Loading,
            None if self.unloaded => Presence::Unloaded,
            None => Presence::NotLoaded,
        }
    }

    /// Returns when [`Event::Ticked`] is due next.
    pub fn deadline(&self) -> Option<Instant> {
        match self.running.as_ref().map(|running| &running.phase) {
            Some(Phase::Loading(loading)) => Some(loading.deadline),
            None if self.waiting.is_some() && self.pauses == 0 => self.pace.not_before(),
            _ => None,
        }
    }

    /// Handles an event that happened at `now` and returns the actions to take.
    pub fn handle(&mut self, now: Instant, event: Event<P>) -> Vec<Action<P>> {
        match event {
            Event::Called(caller, job) => self.call(caller, job),
            Event::LoadRequested(caller, load) => self.request_load(now, caller, load),
            Event::Staged(result) => self.staged(now, result),
            Event::Checked(result) => self.checked(now, result),
            Event::Workers(workers) => self.load_all(now, workers),
            Event::Worker(event) => self.worker(now, event),
            Event::Indexed(result) => self.indexed(now, result),
            Event::Decided(decision) => self.decided(now, decision),
            Event::Recorded(result) => self.recorded(now, result),
            Event::Drained => self.drained(),
            Event::Unloaded => self.end_unload(),
            Event::Ticked => self.ticked(now),
            Event::Paused => self.pauses += 1,
            Event::Resumed => self.pauses = self.pauses.saturating_sub(1),
            Event::Stopped(stop) => self.stop(now, stop),
        }
        self.interrupt();
        self.next(now);
        std::mem::take(&mut self.actions)
    }

    fn call(&mut self, caller: CallId, job: Job) {
        let refuse = |refusal: Refusal| Action::Answer(caller, Err(refusal));
        if let Some(stop) = self.stopped {
            return self.actions.push(refuse(stop.refusal()));
        }
        let mut superseded = Vec::new();
        if let Some(older) = self.waiting.take() {
            if older.superseded.len() + 2 > CALLERS_MAX {
                self.waiting = Some(older);
                let message = "too many updates of this model are waiting; retry later";
                return self.actions.push(refuse(RefusalKind::Busy.because(message)));
            }
            superseded = older.superseded;
            superseded.push(older.caller);
        }
        self.waiting = Some(Waiting { job, caller, superseded, _interrupted: None });
    }

    /// Starts the waiting job if nothing runs and the pace allows it. An automatic rollback comes
    /// first and ignores the pace.
    fn next(&mut self, now: Instant) {
        if self.running.is_some() || self.pauses > 0 || self.stopped.is_some() {
            return;
        }
        let is_due = self.is_rollback_due();
        if let Some(failed) = self.probation.take_if(|probation| probation.has_failed())
            && is_due
        {
            let to = failed.rollback_to.as_ref().to_owned();
            self.actions.push(Action::Quarantine(failed.version.as_ref().to_owned()));
            self.actions.push(Action::AnnounceRollback { from: failed.generation, to: to.clone() });
            let job = Job::unconditional(Target::Version(to), Load::Lazy);
            return self.start(job, Origin::Rollback(failed), Vec::new());
        }
        let paced = self.pace.allows(now);
        if let Some(Waiting { job, caller, superseded, .. }) = self.waiting.take_if(|_| paced) {
            self.pace.record_start(now);
            self.start(job, Origin::Call(caller), superseded);
        } else if self.waiting.is_none() && !self.pending.is_empty() {
            let job = Job::unconditional(Target::Last, self.pending.load());
            self.start(job, Origin::FirstUse, Vec::new());
        }
    }

    fn start(&mut self, job: Job, origin: Origin<P>, superseded: Vec<CallId>) {
        let (phase, action) = match job.is_unload() {
            true => (Phase::Draining, Action::Drain),
            false => (Phase::Staging, Action::Stage(job.clone())),
        };
        self.actions.push(action);
        let update = Update { job, origin, superseded };
        self.running = Some(Running { update, phase });
    }

    /// Takes the running update if its phase matches. A late event finds another phase and is
    /// ignored.
    fn take_running(&mut self, is: impl Fn(&Phase<P>) -> bool) -> Option<Running<P>> {
        self.running.take_if(|running| is(&running.phase))
    }

    fn staged(&mut self, now: Instant, result: Result<Candidate<P>, Refusal>) {
        let Some(Running { update, .. }) =
            self.take_running(|phase| matches!(phase, Phase::Staging))
        else {
            return;
        };
        let Candidate { version, quarantined, content } = match result {
            Ok(candidate) => candidate,
            Err(refusal) => return self.refuse(now, update, Leftovers::Nothing, &refusal),
        };
        if quarantined && !update.job.force {
            let refusal = RefusalKind::Quarantined.because(
                "this version failed its probation before; pass --force to serve it anyway",
            );
            return self.refuse(now, update, Leftovers::Version, &refusal);
        }
        if self.is_old_news(&update.job, &version) {
            return self.keep_serving(update, &version);
        }
        let progress = match content {
            Content::Unchecked(staged) => {
                self.actions.push(Action::Check(update.job.clone(), staged));
                self.running = Some(Running { update, phase: Phase::Checking(version) });
                return;
            }
            Content::Checked(checked) => Progress::Checked(checked),
            Content::Durable(generation, record) => Progress::Durable(generation, record),
        };
        self.prepare(now, update, Prepared { version, progress });
    }

    fn checked(&mut self, now: Instant, result: Result<P::Checked, Refusal>) {
        let Some(Running { update, phase: Phase::Checking(version) }) =
            self.take_running(|phase| matches!(phase, Phase::Checking(_)))
        else {
            return;
        };
        match result {
            Ok(checked) => {
                let progress = Progress::Checked(checked);
                self.prepare(now, update, Prepared { version, progress });
            }
            Err(refusal) => self.refuse(now, update, Leftovers::Version, &refusal),
        }
    }

    /// Loads a kept version ahead, or completes its indexes at once.
    fn prepare(&mut self, now: Instant, update: Update<P>, prepared: Prepared<P>) {
        if update.job.load == Load::Ahead && !self.serves(&prepared.version) {
            self.actions.push(Action::ListWorkers);
            self.running = Some(Running { update, phase: Phase::ListingWorkers(prepared) });
        } else {
            self.index(now, update, prepared, false);
        }
    }

    /// Proposes a prepared version. One that already has a durable record is committed at once.
    fn propose(&mut self, now: Instant, update: Update<P>, prepared: Prepared<P>, ahead: bool) {
        let Prepared { version, progress } = prepared;
        match progress {
            Progress::Durable(generation, record) => {
                self.commit(now, update, (generation, version), (record, ahead));
            }
            Progress::Checked(checked) => {
                let digest = version.as_ref().to_owned();
                self.actions.push(Action::Propose(Proposal { version: digest, after: self.last }));
                let phase = Phase::Proposed { version, checked, ahead };
                self.running = Some(Running { update, phase });
            }
        }
    }

    fn decided(&mut self, now: Instant, decision: Decision) {
        let before = self.last;
        if let Ok(generation) = &decision {
            // The number counts as issued even if this update fails.
            self.last = self.last.max(*generation);
        }
        let Some(Running { update, phase: Phase::Proposed { version, checked, ahead } }) =
            self.take_running(|phase| matches!(phase, Phase::Proposed { .. }))
        else {
            return;
        };
        match decision {
            Ok(generation) if generation > before => {
                self.actions.push(Action::Record(generation, version.clone(), checked));
                let phase = Phase::Recording { generation, version, ahead };
                self.running = Some(Running { update, phase });
            }
            Ok(generation) => {
                let message = format!(
                    "internal error: decided on generation {generation}, which is not above {before}"
                );
                let refusal = RefusalKind::Internal.because(message);
                self.refuse(now, update, Leftovers::after(ahead), &refusal);
            }
            Err(refusal) => self.refuse(now, update, Leftovers::after(ahead), &refusal),
        }
    }

    fn recorded(&mut self, now: Instant, result: Result<P::Record, Refusal>) {
        let Some(Running { update, phase: Phase::Recording { generation, version, ahead } }) =
            self.take_running(|phase| matches!(phase, Phase::Recording { .. }))
        else {
            return;
        };
        match result {
            Ok(record) => self.commit(now, update, (generation, version), (record, ahead)),
            Err(refusal) => self.refuse(now, update, Leftovers::after(ahead), &refusal),
        }
    }

    /// Unloads the model once every admitted request is answered.
    fn drained(&mut self) {
        if let Some(running) = self.running.as_mut()
            && matches!(running.phase, Phase::Draining)
        {
            running.phase = Phase::Unloading;
            self.actions.push(Action::Unload);
        }
    }

    fn worker(&mut self, now: Instant, event: WorkerEvent) {
        match event {
            WorkerEvent::Loaded(worker, version, result) => {
                self.loaded(now, worker, &version, result);
            }
            WorkerEvent::Exited(worker, cause) => self.worker_gone(now, worker, Some(cause)),
            WorkerEvent::Absent(worker) => self.worker_gone(now, worker, None),
            WorkerEvent::Failed(generation) => {
                self.probation.take_if(|probation| probation.is_over(now));
                if let Some(probation) = &mut self.probation {
                    probation.failed(generation);
                }
            }
        }
    }
}

#[cfg(test)]
mod decision_tests;

#[cfg(test)]
mod interrupt_tests;

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

#[cfg(test)]
mod unload_tests;

#[cfg(test)]
mod world;
