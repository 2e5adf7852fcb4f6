//! One model's update machine as a state machine. Pure: it is told what happened and when, and
//! answers what is to be done; [`crate::models::update`] does it and tells the outcome.
//!
//! ```text
//!  idle ──► staging ──► checking ──► loading (ahead, one worker after the other) ──► recording ──► idle
//!   │           rollback ─────────────►┘      lazy, or the same version ─────────────►┘    commit
//! ```
//!
//! Whatever fails before the record is durable leaves the serving generation alone. One update
//! runs, one waits; a newer call takes the waiting one's place, and whoever asked for that one is
//! told which generation came instead. After a commit the new version is on probation: if its
//! workers fail twice in that time, the machine goes back to the version before by itself.
//!
//! An unload stands in the same machine: draining, unloading, idle. Requests that need a model of which
//! nothing serves wait in it, too, and all of them cause one load, see [`PendingLoads`].

mod ahead;
pub mod events;
mod outcome;
mod pace;
mod pending;
pub mod presence;
mod probation;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use onnxd_proto::{
    domain::{Refusal, RefusalKind},
    generation::Generation,
};

use crate::models::machine::{
    events::{Action, CallId, Candidate, Committed, Event, Job, Target, Version},
    pace::Pace,
    pending::PendingLoads,
    presence::Presence,
    probation::Probation,
};
use crate::pool::WorkerId;
use onnxd_proto::domain::Load;

/// Callers that may wait in one machine. More are refused.
pub const CALLERS_MAX: usize = 4096;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For one worker to load ahead; then the update goes on without it.
    pub load_ahead: Duration,
    /// From a commit to the end of its probation.
    pub probation: Duration,
}

/// One model's machine.
#[derive(Debug)]
pub struct UpdateMachine {
    times: Times,
    /// The last number that was ever given out.
    last: Generation,
    serving: Option<(Generation, Version)>,
    running: Option<Running>,
    waiting: Option<Waiting>,
    pace: Pace,
    probation: Option<Probation>,
    pending: PendingLoads,
    /// Whether it was told to serve nothing.
    unloaded: bool,
    /// Who wants nothing new to begin for the time being: a successor until its predecessor has gone, and
    /// meanwhile perhaps one that has a successor itself.
    holds: u32,
    /// Why nothing is decided any more.
    stopped: Option<&'static str>,
    /// What the event that is being handled leads to.
    actions: Vec<Action>,
}

/// The update that runs.
#[derive(Debug)]
struct Running {
    job: Job,
    /// Who asked for it; nobody where the machine goes back by itself or loads what is wanted.
    caller: Option<CallId>,
    /// Who asked for something that this update took the place of.
    superseded: Vec<CallId>,
    phase: Phase,
    version: Version,
    /// Its number, where its record is durable already.
    durable: Option<Generation>,
    /// What it is to end, where the machine goes back by itself.
    ends: Option<Probation>,
}

/// How far the running update is.
#[derive(Debug)]
enum Phase {
    Staging,
    Checking,
    AskingWorkers,
    Loading { worker: WorkerId, deadline: Instant, rest: VecDeque<WorkerId>, so_far: LoadedSoFar },
    Recording(Generation),
    Draining,
    Unloading,
}

/// How workers that were asked to load ahead have fared.
#[derive(Clone, Copy, Debug, Default)]
struct LoadedSoFar {
    /// Workers that have loaded the version.
    loaded: usize,
    /// Workers that ended instead by a fault.
    ended: usize,
    /// Workers that somebody ended instead.
    killed: usize,
}

impl LoadedSoFar {
    /// Workers that ended instead, if the version is to blame: one that is killed says little, two
    /// in a row were killed because of what they loaded.
    fn blames(self) -> Option<usize> {
        let ends = self.ended + self.killed;
        (self.loaded == 0 && (self.ended > 0 || self.killed > 1)).then_some(ends)
    }
}

#[derive(Debug)]
struct Waiting {
    job: Job,
    caller: CallId,
    superseded: Vec<CallId>,
}

impl UpdateMachine {
    /// A machine that has given out numbers up to `last` and serves what a restart found.
    pub fn new(last: Generation, serving: Option<(Generation, Version)>, times: Times) -> Self {
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
        self.running.as_ref()?.caller
    }

    /// Whether no update runs.
    pub fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Whether the model is there.
    pub fn presence(&self) -> Presence {
        let running = self.running.as_ref().map(|running| &running.job);
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
            Some(Phase::Loading { deadline, .. }) => Some(*deadline),
            None if self.waiting.is_some() && self.holds == 0 => self.pace.not_before(),
            _ => None,
        }
    }

    /// Takes in what happened at `now`, and says what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Called(caller, job) => self.call(caller, job),
            Event::Wanted(caller, load) => self.want(now, caller, load),
            Event::Staged(result) => self.staged(now, result),
            Event::Checked(result) => self.checked(now, result),
            Event::Workers(workers) => {
                self.load_next(now, workers.into(), LoadedSoFar::default());
            }
            Event::Loaded(worker, version, result) => {
                self.loaded(now, worker, &version, result);
            }
            Event::WorkerEnded(worker, cause) => self.worker_gone(now, worker, Some(cause)),
            Event::WorkerAbsent(worker) => self.worker_gone(now, worker, None),
            Event::WorkerFailed(generation) => self.worker_failed(now, generation),
            Event::Recorded(result) => self.recorded(now, result),
            Event::Drained => self.drained(),
            Event::Unloaded => self.end_unload(),
            Event::Ticked => self.ticked(now),
            Event::Held => self.holds += 1,
            Event::Resumed => self.holds = self.holds.saturating_sub(1),
            Event::Stopped(reason) => self.stop(now, reason),
        }
        self.next(now);
        std::mem::take(&mut self.actions)
    }

    fn call(&mut self, caller: CallId, job: Job) {
        let refuse =
            |message: &str| Action::Answer(caller, Err(RefusalKind::Busy.because(message)));
        if let Some(reason) = self.stopped {
            return self.actions.push(refuse(reason));
        }
        let mut superseded = Vec::new();
        if let Some(older) = self.waiting.take() {
            if older.superseded.len() + 2 > CALLERS_MAX {
                self.waiting = Some(older);
                return self.actions.push(refuse("too many updates of this model wait already"));
            }
            superseded = older.superseded;
            superseded.push(older.caller);
        }
        self.waiting = Some(Waiting { job, caller, superseded });
    }

    /// Answers at once, or when something serves.
    fn want(&mut self, now: Instant, caller: CallId, load: Load) {
        if let Some(reason) = self.stopped {
            let refusal = RefusalKind::Busy.because(reason);
            return self.actions.push(Action::Answer(caller, Err(refusal)));
        }
        let result = match (self.presence(), &self.serving) {
            (Presence::Unloading | Presence::Unloaded, _) => Err(is_unloaded()),
            (_, Some((generation, version))) => {
                let (generation, version) = (*generation, version.clone());
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
            let to = failed.back_to.clone();
            self.actions.push(Action::Quarantine(failed.version.clone()));
            self.actions.push(Action::AnnounceRollback { from: failed.generation, to: to.clone() });
            let job = Job {
                target: Target::Version(to),
                load: Load::Lazy,
                force: true,
                allow_dimension_change: true,
            };
            self.start(job, None, Vec::new());
            if let Some(running) = &mut self.running {
                running.ends = Some(failed.again());
            }
            return;
        }
        let paced = self.pace.allows(now);
        if let Some(Waiting { job, caller, superseded }) = self.waiting.take_if(|_| paced) {
            self.pace.begun(now);
            self.start(job, Some(caller), superseded);
        } else if self.waiting.is_none() && !self.pending.is_empty() {
            let job = Job {
                target: Target::Last,
                load: self.pending.load(),
                force: true,
                allow_dimension_change: true,
            };
            self.start(job, None, Vec::new());
        }
    }

    fn start(&mut self, job: Job, caller: Option<CallId>, superseded: Vec<CallId>) {
        let (phase, action) = match job.is_unload() {
            true => (Phase::Draining, Action::Drain),
            false => (Phase::Staging, Action::Stage(job.clone())),
        };
        self.actions.push(action);
        let (version, durable, ends) = (Version::new(), None, None);
        self.running = Some(Running { job, caller, superseded, phase, version, durable, ends });
    }

    fn staged(&mut self, now: Instant, result: Result<Candidate, Refusal>) {
        let Some(running) = self.running.as_mut() else {
            return self.actions.push(Action::Discard);
        };
        match result {
            Err(refusal) => self.refuse(now, &refusal),
            Ok(candidate) if candidate.quarantined && !running.job.force => {
                self.actions.push(Action::Discard);
                let refusal = RefusalKind::Quarantined.because(
                    "this version failed its probation before; --force serves it nevertheless",
                );
                self.refuse(now, &refusal);
            }
            Ok(candidate) => {
                running.version = candidate.version;
                running.durable = candidate.durable;
                if candidate.unchecked {
                    running.phase = Phase::Checking;
                    self.actions.push(Action::Check(running.job.clone()));
                } else {
                    self.prepare(now);
                }
            }
        }
    }

    fn checked(&mut self, now: Instant, result: Result<(), Refusal>) {
        match result {
            Ok(()) => self.prepare(now),
            Err(refusal) => self.refuse(now, &refusal),
        }
    }

    /// The content is kept: load it ahead, or go on to the record.
    fn prepare(&mut self, now: Instant) {
        let Some(running) = self.running.as_mut() else { return };
        let same = self.serving.as_ref().is_some_and(|(_, version)| *version == running.version);
        if running.job.load == Load::Ahead && !same {
            running.phase = Phase::AskingWorkers;
            self.actions.push(Action::AskWorkers);
        } else {
            self.record(now);
        }
    }

    fn record(&mut self, now: Instant) {
        let Some(running) = self.running.as_mut() else { return };
        if let Some(generation) = running.durable {
            return self.commit(now, generation);
        }
        // Given out, whatever becomes of it.
        self.last += 1;
        running.phase = Phase::Recording(self.last);
        self.actions.push(Action::Record(self.last, running.version.clone()));
    }

    fn recorded(&mut self, now: Instant, result: Result<(), Refusal>) {
        if let Err(refusal) = result {
            return self.refuse(now, &refusal);
        }
        if let Some(Running { phase: Phase::Recording(generation), .. }) = self.running {
            self.commit(now, generation);
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

    fn worker_failed(&mut self, now: Instant, generation: Generation) {
        self.probation.take_if(|probation| probation.is_over(now));
        if let Some(probation) = &mut self.probation {
            probation.failed(generation);
        }
    }
}

fn is_unloaded() -> Refusal {
    RefusalKind::NotFound.because("the model is unloaded")
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "unload_tests.rs"]
mod unload_tests;

#[cfg(test)]
#[path = "world.rs"]
mod world;
