//! One model's line of updates as a state machine. Pure: it is told what happened and when, and
//! answers what is to be done; [`super::update`] does it and tells the outcome.
//!
//! ```text
//!  idle ──► staging ──► checking ──► loading (ahead, one worker after the other) ──► recording ──► idle
//!   │           rollback ─────────────►┘      lazy, or the same version ─────────────►┘    commit
//! ```
//!
//! Whatever fails before the record is durable leaves the serving generation alone. One update
//! runs, one waits; a newer call takes the waiting one's place, and whoever asked for that one is
//! told which generation came instead. After a commit the new version is on probation: if its
//! workers fail twice in that time, the line goes back to the version before by itself.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use onnxd_proto::{
    generation::Generation,
    message::{Refusal, RefusalKind},
};

use super::events::{Action, CallId, Candidate, Committed, Event, Job, Target, Version};
use super::{pace::Pace, probation::Probation, update::Load};
use crate::pool::WorkerId;

/// Callers that may wait in one line. More are refused.
pub(crate) const CALLERS_MAX: usize = 4096;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// For one worker to load ahead; then the update goes on without it.
    pub load_ahead: Duration,
    /// From a commit to the end of its probation.
    pub probation: Duration,
}

/// One model's line.
#[derive(Debug)]
pub(crate) struct Line {
    times: Times,
    /// The last number that was ever given out.
    last: Generation,
    serving: Option<(Generation, Version)>,
    running: Option<Running>,
    waiting: Option<Waiting>,
    pace: Pace,
    probation: Option<Probation>,
    stopped: bool,
    /// What the event that is being handled leads to.
    actions: Vec<Action>,
}

/// The update that runs.
#[derive(Debug)]
struct Running {
    job: Job,
    /// Who asked for it; nobody where the line goes back by itself.
    caller: Option<CallId>,
    /// Who asked for something that this update took the place of.
    superseded: Vec<CallId>,
    phase: Phase,
    version: Version,
    /// What it is to end, where the line goes back by itself.
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
}

/// How workers that were asked to load ahead have fared.
#[derive(Clone, Copy, Debug, Default)]
struct LoadedSoFar {
    /// Workers that have loaded the version.
    loaded: usize,
    /// Workers that ended instead.
    ended: usize,
}

#[derive(Debug)]
struct Waiting {
    job: Job,
    caller: CallId,
    superseded: Vec<CallId>,
}

impl Line {
    /// A line that has given out numbers up to `last` and serves what a restart found.
    pub(crate) fn new(
        last: Generation,
        serving: Option<(Generation, Version)>,
        times: Times,
    ) -> Self {
        Self {
            times,
            last,
            serving,
            running: None,
            waiting: None,
            pace: Pace::default(),
            probation: None,
            stopped: false,
            actions: Vec::new(),
        }
    }

    /// Who asked for the update that runs.
    pub(crate) fn caller(&self) -> Option<CallId> {
        self.running.as_ref()?.caller
    }

    /// Whether no update runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// When [`Event::Ticked`] has to come next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.running.as_ref().map(|running| &running.phase) {
            Some(Phase::Loading { deadline, .. }) => Some(*deadline),
            None if self.waiting.is_some() => self.pace.not_before(),
            _ => None,
        }
    }

    /// Takes in what happened at `now`, and says what is to be done.
    pub(crate) fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Called(caller, job) => self.call(caller, job),
            Event::Staged(result) => self.staged(result),
            Event::Checked(result) => self.checked(result),
            Event::Workers(workers) => {
                self.load_next(now, workers.into(), LoadedSoFar::default());
            }
            Event::Loaded(worker, version, result) => {
                self.loaded(now, worker, &version, result);
            }
            Event::WorkerEnded(worker) => self.worker_gone(now, worker, 1),
            Event::WorkerAbsent(worker) => self.worker_gone(now, worker, 0),
            Event::WorkerFailed(generation) => self.worker_failed(now, generation),
            Event::Recorded(result) => self.recorded(now, result),
            Event::Ticked => self.ticked(now),
            Event::Stopped => self.stop(),
        }
        self.next(now);
        std::mem::take(&mut self.actions)
    }

    fn call(&mut self, caller: CallId, job: Job) {
        let refuse =
            |message: &str| Action::Answer(caller, Err(RefusalKind::Busy.because(message)));
        if self.stopped {
            return self.actions.push(refuse("onnxd is stopping"));
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

    /// Starts what waits, if nothing runs and the pace allows it. Going back from a failed
    /// probation comes first, and at once.
    fn next(&mut self, now: Instant) {
        if self.running.is_some() || self.stopped {
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
        if !self.pace.allows(now) {
            return;
        }
        if let Some(Waiting { job, caller, superseded }) = self.waiting.take() {
            self.pace.begun(now);
            self.start(job, Some(caller), superseded);
        }
    }

    fn start(&mut self, job: Job, caller: Option<CallId>, superseded: Vec<CallId>) {
        self.actions.push(Action::Stage(job.clone()));
        let (phase, version) = (Phase::Staging, Version::new());
        self.running = Some(Running { job, caller, superseded, phase, version, ends: None });
    }

    fn staged(&mut self, result: Result<Candidate, Refusal>) {
        let Some(running) = self.running.as_mut() else {
            return self.actions.push(Action::Discard);
        };
        match result {
            Err(refusal) => self.refuse(&refusal),
            Ok(candidate) if candidate.quarantined && !running.job.force => {
                self.actions.push(Action::Discard);
                let refusal = RefusalKind::Quarantined.because(
                    "this version failed its probation before; --force serves it nevertheless",
                );
                self.refuse(&refusal);
            }
            Ok(candidate) => {
                running.version = candidate.version;
                if candidate.unchecked {
                    running.phase = Phase::Checking;
                    self.actions.push(Action::Check(running.job.clone()));
                } else {
                    self.prepare();
                }
            }
        }
    }

    fn checked(&mut self, result: Result<(), Refusal>) {
        match result {
            Ok(()) => self.prepare(),
            Err(refusal) => self.refuse(&refusal),
        }
    }

    /// The content is kept: load it ahead, or go on to the record.
    fn prepare(&mut self) {
        let Some(running) = self.running.as_mut() else { return };
        let same = self.serving.as_ref().is_some_and(|(_, version)| *version == running.version);
        if running.job.load == Load::Ahead && !same {
            running.phase = Phase::AskingWorkers;
            self.actions.push(Action::AskWorkers);
        } else {
            self.record();
        }
    }

    /// Asks the first of `rest` to load, or goes on when all have been asked.
    fn load_next(&mut self, now: Instant, mut rest: VecDeque<WorkerId>, so_far: LoadedSoFar) {
        let Some(running) = self.running.as_mut() else { return };
        let Some(worker) = rest.pop_front() else {
            return match so_far {
                // Committed, it would end them again and again, and nobody would serve.
                LoadedSoFar { loaded: 0, ended } if ended > 0 => {
                    let message = format!("workers ended while they loaded it: all {ended}");
                    self.refuse(&RefusalKind::Crash.because(message));
                }
                _ => self.record(),
            };
        };
        self.actions.push(Action::LoadAhead(worker, running.version.clone()));
        let deadline = now + self.times.load_ahead;
        running.phase = Phase::Loading { worker, deadline, rest, so_far };
    }

    fn loaded(
        &mut self,
        now: Instant,
        worker: WorkerId,
        version: &Version,
        result: Result<(), String>,
    ) {
        let Some(running) = self.running.as_mut() else { return };
        let Phase::Loading { worker: asked, rest, so_far, .. } = &mut running.phase else { return };
        if *asked != worker || running.version != *version {
            return;
        }
        let (rest, mut so_far) = (std::mem::take(rest), *so_far);
        so_far.loaded += usize::from(result.is_ok());
        match result {
            Ok(()) => self.load_next(now, rest, so_far),
            Err(reason) => {
                let message = format!("worker {worker} cannot load the checked version: {reason}");
                self.refuse(&RefusalKind::Load.because(message));
            }
        }
    }

    /// A worker that ends while it loads is not waited for: its next process loads what is
    /// committed then. `accuses` counts it against the version.
    fn worker_gone(&mut self, now: Instant, worker: WorkerId, accuses: usize) {
        let Some(running) = self.running.as_mut() else { return };
        let Phase::Loading { worker: asked, rest, so_far, .. } = &mut running.phase else { return };
        rest.retain(|other| *other != worker);
        if *asked == worker {
            so_far.ended += accuses;
            let (rest, so_far) = (std::mem::take(rest), *so_far);
            self.load_next(now, rest, so_far);
        }
    }

    fn ticked(&mut self, now: Instant) {
        let Some(running) = self.running.as_mut() else { return };
        let Phase::Loading { deadline, rest, so_far, .. } = &mut running.phase else { return };
        if *deadline <= now {
            // It loads when it notices the commit; its requests wait, as they do with `lazy`.
            let (rest, so_far) = (std::mem::take(rest), *so_far);
            self.load_next(now, rest, so_far);
        }
    }

    fn record(&mut self) {
        let Some(running) = self.running.as_mut() else { return };
        // Given out, whatever becomes of it.
        self.last += 1;
        running.phase = Phase::Recording(self.last);
        self.actions.push(Action::Record(self.last, running.version.clone()));
    }

    fn recorded(&mut self, now: Instant, result: Result<(), Refusal>) {
        if let Err(refusal) = result {
            return self.refuse(&refusal);
        }
        let Some(running) = self.running.take() else { return };
        let Phase::Recording(generation) = running.phase else {
            self.running = Some(running);
            return;
        };
        self.actions.push(Action::Commit(generation));
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
        if let Some(caller) = running.caller {
            let committed = Committed { generation, version, previous, load };
            self.actions.push(Action::Answer(caller, Ok(committed)));
        }
        let message = format!("superseded by a newer update, which is generation {generation}");
        for caller in running.superseded {
            let refusal = RefusalKind::Superseded.because(message.clone());
            self.actions.push(Action::Answer(caller, Err(refusal)));
        }
    }

    fn worker_failed(&mut self, now: Instant, generation: Generation) {
        self.probation.take_if(|probation| probation.is_over(now));
        if let Some(probation) = &mut self.probation {
            probation.failed(generation);
        }
    }

    /// Ends the running update without a commit.
    fn refuse(&mut self, refusal: &Refusal) {
        let Some(running) = self.running.take() else { return };
        match running.caller {
            Some(caller) => self.actions.push(Action::Answer(caller, Err(refusal.clone()))),
            None => {
                // Two further failures try it again.
                self.probation = running.ends;
                self.actions.push(Action::RollbackFailed(refusal.clone()));
            }
        }
        if let (Phase::Loading { .. }, Some((_, serving))) = (&running.phase, &self.serving) {
            // Who has loaded it already would keep it for nothing.
            self.actions.push(Action::Forget(serving.clone()));
        }
        let message = format!("superseded by a newer update, which was refused: {refusal}");
        for caller in running.superseded {
            let refusal = RefusalKind::Superseded.because(message.clone());
            self.actions.push(Action::Answer(caller, Err(refusal)));
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        let refusal = RefusalKind::Busy.because("onnxd is stopping");
        // A record that may be durable already decides for itself.
        let recording = |running: &Running| matches!(running.phase, Phase::Recording(_));
        if !self.running.as_ref().is_some_and(recording) {
            self.refuse(&refusal);
        }
        if let Some(waiting) = self.waiting.take() {
            for caller in waiting.superseded.into_iter().chain([waiting.caller]) {
                self.actions.push(Action::Answer(caller, Err(refusal.clone())));
            }
        }
    }
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
