//! The updates of one model as a state machine. Pure: it is told what happened and when, and
//! answers what is to be done; [`crate::models::update`] does it and tells the outcome.
//!
//! ```text
//!  idle ─► staging ─► checking ─► loading (ahead, one worker after the other) ─► proposed ─► recording ─► idle
//!   │       rollback ───────────►┘      lazy, or the same version ─────────────►┘  decided    commit
//! ```
//!
//! Whatever fails before the record is durable leaves the serving generation alone. One update
//! runs, one waits; a newer call takes the waiting one's place, and whoever asked for that one is
//! told which generation came instead. After a commit the new version is on probation: if its
//! workers fail twice in that time, the machine goes back to the version before by itself.
//!
//! A prepared version is *proposed*; whoever numbers generations *decides* whether it becomes one,
//! and which. Until then the update can be given up; from then on its number is used up.
//!
//! An unload is one more job: draining, unloading, idle. Requests that need a model of which
//! nothing serves wait, too, and all of them cause one load, see [`PendingLoads`].

mod ahead;
pub mod events;
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
        Action, CallId, Candidate, Committed, Content, Decision, Event, Job, Payload, Proposal,
        Stop, Target, WorkerEvent,
    },
    pace::Pace,
    pending::PendingLoads,
    phase::{Known, Left, Loading, Origin, Phase, Prepared, Running, Update},
    presence::Presence,
    probation::Probation,
};

/// Callers that may wait for one model. More are refused.
pub const CALLERS_MAX: usize = 4096;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For one worker to load ahead; then the update goes on without it.
    pub load_ahead: Duration,
    /// From a commit to the end of its probation.
    pub probation: Duration,
}

/// One model's updates.
#[derive(Debug)]
pub struct UpdateMachine<P: Payload> {
    times: Times,
    /// The last number that was ever given out.
    last: Generation,
    serving: Option<(Generation, P::Version)>,
    running: Option<Running<P>>,
    waiting: Option<Waiting>,
    pace: Pace,
    probation: Option<Probation<P::Version>>,
    pending: PendingLoads,
    /// Whether it was told to serve nothing.
    unloaded: bool,
    /// Who wants nothing new to begin for the time being: a successor until its predecessor has gone, and
    /// meanwhile perhaps one that has a successor itself.
    holds: u32,
    /// Why nothing is decided any more.
    stopped: Option<Stop>,
    /// What the event that is being handled leads to.
    actions: Vec<Action<P>>,
}

/// The update that comes next.
#[derive(Debug)]
struct Waiting {
    job: Job,
    caller: CallId,
    superseded: Vec<CallId>,
}

impl<P: Payload> UpdateMachine<P> {
    /// A machine that has given out numbers up to `last` and serves what a restart found.
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
            unloaded: false,
            holds: 0,
            stopped: None,
            actions: Vec::new(),
        }
    }

    /// Who asked for the update that runs.
    pub fn caller(&self) -> Option<CallId> {
        self.running.as_ref()?.update.caller()
    }

    /// Whether no update runs.
    pub fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Whether the model is there.
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

    /// When [`Event::Ticked`] has to come next.
    pub fn deadline(&self) -> Option<Instant> {
        match self.running.as_ref().map(|running| &running.phase) {
            Some(Phase::Loading(loading)) => Some(loading.deadline),
            None if self.waiting.is_some() && self.holds == 0 => self.pace.not_before(),
            _ => None,
        }
    }

    /// Takes in what happened at `now`, and says what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event<P>) -> Vec<Action<P>> {
        match event {
            Event::Called(caller, job) => self.call(caller, job),
            Event::Wanted(caller, load) => self.want(now, caller, load),
            Event::Staged(result) => self.staged(now, result),
            Event::Checked(result) => self.checked(now, result),
            Event::Workers(workers) => self.load_all(now, workers),
            Event::Worker(event) => self.worker(now, event),
            Event::Decided(decision) => self.decided(now, decision),
            Event::Recorded(result) => self.recorded(now, result),
            Event::Drained => self.drained(),
            Event::Unloaded => self.end_unload(),
            Event::Ticked => self.ticked(now),
            Event::Held => self.holds += 1,
            Event::Resumed => self.holds = self.holds.saturating_sub(1),
            Event::Stopped(stop) => self.stop(now, stop),
        }
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
                let message = "too many updates of this model wait already";
                return self.actions.push(refuse(RefusalKind::Busy.because(message)));
            }
            superseded = older.superseded;
            superseded.push(older.caller);
        }
        self.waiting = Some(Waiting { job, caller, superseded });
    }

    /// Answers at once, or when something serves.
    fn want(&mut self, now: Instant, caller: CallId, load: Load) {
        if let Some(stop) = self.stopped {
            return self.actions.push(Action::Answer(caller, Err(stop.refusal())));
        }
        let result = match (self.presence(), &self.serving) {
            (Presence::Unloading | Presence::Unloaded, _) => Err(is_unloaded()),
            (_, Some((generation, version))) => {
                let (generation, version) = (*generation, version.as_ref().to_owned());
                Ok(Committed { generation, version, previous: generation, load })
            }
            (_, None) => match self.pending.add(now, caller, load) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
        };
        self.actions.push(Action::Answer(caller, result));
    }

    /// Starts what waits, if nothing runs and the pace allows it. Going back from a failed
    /// probation comes first, and at once.
    fn next(&mut self, now: Instant) {
        if self.running.is_some() || self.holds > 0 || self.stopped.is_some() {
            return;
        }
        let serving = self.serving.as_ref().map(|(generation, _)| *generation);
        if let Some(failed) = self.probation.take_if(|probation| probation.has_failed())
            && serving == Some(failed.generation)
        {
            let to = failed.back_to.as_ref().to_owned();
            self.actions.push(Action::Quarantine(failed.version.as_ref().to_owned()));
            self.actions.push(Action::AnnounceRollback { from: failed.generation, to: to.clone() });
            let job = Job::unconditional(Target::Version(to), Load::Lazy);
            return self.start(job, Origin::Rollback(failed), Vec::new());
        }
        let paced = self.pace.allows(now);
        if let Some(Waiting { job, caller, superseded }) = self.waiting.take_if(|_| paced) {
            self.pace.begun(now);
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

    /// Takes what runs out of the machine if it is in such a phase: an event that comes late finds
    /// another one.
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
            Err(refusal) => return self.refuse(now, update, Left::Nothing, &refusal),
        };
        if quarantined && !update.job.force {
            let refusal = RefusalKind::Quarantined.because(
                "this version failed its probation before; --force serves it nevertheless",
            );
            return self.refuse(now, update, Left::Version, &refusal);
        }
        let known = match content {
            Content::Unchecked(staged) => {
                self.actions.push(Action::Check(update.job.clone(), staged));
                self.running = Some(Running { update, phase: Phase::Checking(version) });
                return;
            }
            Content::Checked(checked) => Known::Checked(checked),
            Content::Durable(generation, record) => Known::Durable(generation, record),
        };
        self.prepare(now, update, Prepared { version, known });
    }

    fn checked(&mut self, now: Instant, result: Result<P::Checked, Refusal>) {
        let Some(Running { update, phase: Phase::Checking(version) }) =
            self.take_running(|phase| matches!(phase, Phase::Checking(_)))
        else {
            return;
        };
        match result {
            Ok(checked) => {
                let known = Known::Checked(checked);
                self.prepare(now, update, Prepared { version, known });
            }
            Err(refusal) => self.refuse(now, update, Left::Version, &refusal),
        }
    }

    /// The content is kept: load it ahead, or go on to the decision.
    fn prepare(&mut self, now: Instant, update: Update<P>, prepared: Prepared<P>) {
        let same = self.serving.as_ref().is_some_and(|(_, version)| *version == prepared.version);
        if update.job.load == Load::Ahead && !same {
            self.actions.push(Action::AskWorkers);
            self.running = Some(Running { update, phase: Phase::AskingWorkers(prepared) });
        } else {
            self.propose(now, update, prepared, false);
        }
    }

    /// Everything here is prepared; what has been decided before is committed at once.
    fn propose(&mut self, now: Instant, update: Update<P>, prepared: Prepared<P>, ahead: bool) {
        let Prepared { version, known } = prepared;
        match known {
            Known::Durable(generation, record) => {
                self.commit(now, update, (generation, version), (record, ahead));
            }
            Known::Checked(checked) => {
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
            // Given out, whatever becomes of it.
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
                self.refuse(now, update, Left::after(ahead), &refusal);
            }
            Err(refusal) => self.refuse(now, update, Left::after(ahead), &refusal),
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
            Err(refusal) => self.refuse(now, update, Left::after(ahead), &refusal),
        }
    }

    /// Nothing is admitted, and what was is answered: nothing serves from now on.
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
            WorkerEvent::Ended(worker, cause) => self.worker_gone(now, worker, Some(cause)),
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

fn is_unloaded() -> Refusal {
    RefusalKind::NotFound.because("the model is unloaded")
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod decision_tests;

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "unload_tests.rs"]
mod unload_tests;

#[cfg(test)]
#[path = "world.rs"]
mod world;
