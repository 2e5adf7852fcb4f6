//! One worker as the supervisor sees it: a pure state machine over all its processes. The
//! [actor](crate::dispatch::actor) reports what happened, in whatever order threads and sockets tell
//! it, and does what the returned values say.
//!
//! ```text
//!            start due          ready             group sent
//! backoff ───────────► starting ─────► ready ◄──────────────► busy
//!    ▲                    │              │      group done      │
//!    └────────────────────┴──────────────┴──────────────────────┘  ended
//!                         └──► failed   (cannot be started, or too often)
//!            any ──► draining ──► stopped
//!   ready or busy ──► draining ──► backoff  (recycled: started again at once, no failure)
//! ```
//!
//! A process is over when it *and* its socket have ended, in any order: what it wrote before it died
//! is an answer like any other. Nothing is taken from it before that, unless it broke the protocol.
//! When no worker serves, [`hurry`] shortens the wait of one.
//!
//! - [`process`]: the states of one process; [`loads`]: what it has loaded.
//! - [`ends`]: what happens when it ends.
//! - [`work`]: what a worker is asked and answers.

mod ends;
mod loads;
mod process;
mod work;

use std::time::Instant;

use onnxd_proto::{BUILD_ID, control_page::Slot, generation::Generation};
use onnxd_telemetry::metrics::KillReason;

pub(crate) use ends::{Blame, Finished, Progress};

use crate::dispatch::{
    policy::{
        overdue::Due,
        restarts::{History, Wait},
        session::process::{Body, Conduct, Process, Service, Socket, Stage},
    },
    worker::{Load, State},
};
use crate::pool::{Epoch, Supervision};

/// One worker's state and history.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    models: usize,
    /// The number of the present or last process.
    epoch: Epoch,
    history: History,
    /// Whether the last process that said so found itself pinned to its CPU.
    pinned: bool,
    was_ready: bool,
    /// The newest that any of its processes has loaded, by slot.
    newest_seen: Vec<Generation>,
}

#[derive(Debug)]
enum Phase {
    /// It has no process and will be started.
    Backoff(Wait),
    /// It has one.
    Alive(Process),
    /// It has ended because it was told to.
    Stopped,
    /// It is given up; for this reason, if starting it again is hopeless.
    Failed(Option<String>),
}

/// What becomes of the socket of a new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Welcome {
    /// Read and write it; then call [`Session::connected`].
    Connect,
    /// Drop it and kill the process: it is not wanted any more.
    Refuse,
}

impl Session {
    /// A worker that is to be started at `now`, and at most `restarts_max` times again within a
    /// minute.
    pub fn new(now: Instant, models: usize, restarts_max: u32) -> Self {
        Self {
            phase: Phase::Backoff(Wait { start_at: now, soonest: now }),
            models,
            epoch: 0,
            history: History::new(restarts_max),
            pinned: false,
            was_ready: false,
            newest_seen: vec![0; models],
        }
    }

    /// The present state.
    pub(crate) fn state(&self) -> State {
        match &self.phase {
            Phase::Backoff(_) => State::Backoff,
            Phase::Stopped => State::Stopped,
            Phase::Failed(_) => State::Failed,
            Phase::Alive(process) => match &process.stage {
                Stage::Starting { .. } => State::Starting,
                Stage::Recycling(_) | Stage::Stopping(_) => State::Draining,
                Stage::Serving(service) => {
                    let is_idle = service.groups.is_empty() && process.socket != Socket::Broken;
                    if is_idle { State::Ready } else { State::Busy }
                }
            },
        }
    }

    /// Whether a message of this process counts. What an older one was to answer has been given to
    /// another.
    pub(crate) fn listens_to(&self, epoch: Epoch) -> bool {
        self.epoch == epoch && self.process().is_some_and(Process::listens)
    }

    /// How often the worker was started again.
    pub(crate) fn restarts(&self) -> u64 {
        self.history.restarts()
    }

    /// Whether the worker found itself pinned to its CPU.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Whether any of its processes became ready.
    pub(crate) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Why starting the worker again is hopeless, if it is.
    pub(crate) fn hopeless(&self) -> Option<&str> {
        match &self.phase {
            Phase::Failed(reason) => reason.as_deref(),
            Phase::Alive(process) => process.hopeless.as_deref(),
            Phase::Backoff(_) | Phase::Stopped => None,
        }
    }

    /// Whether the worker answers requests.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.process(), Some(Process { stage: Stage::Serving(_), .. }))
    }

    /// Whether the worker serves and is not stopped.
    pub(crate) fn goes_on(&self) -> bool {
        self.serves() && !self.is_stopped()
    }

    /// Whether its process is stopped (`SIGSTOP`), or was and is killed for that.
    pub(crate) fn is_stopped(&self) -> bool {
        self.process().is_some_and(Process::is_stopped)
    }

    /// Whether the worker drains so that it can be started again.
    pub(crate) fn is_recycled(&self) -> bool {
        matches!(self.process(), Some(Process { stage: Stage::Recycling(_), .. }))
    }

    /// When [`Session::start_due`] has to be called next.
    pub(crate) fn start_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Backoff(wait) => Some(wait.start_at),
            _ => None,
        }
    }

    /// The number of the process that is to be started now. The worker is starting from then on.
    pub(crate) fn start_due(&mut self, now: Instant) -> Option<Epoch> {
        self.start_at().filter(|at| *at <= now)?;
        self.phase = Phase::Alive(Process::new(self.models));
        self.epoch += 1;
        Some(self.epoch)
    }

    /// The worker is not started again, if it waits to be.
    pub(crate) fn give_up(&mut self) {
        if let Phase::Backoff(_) = self.phase {
            self.phase = Phase::Failed(None);
        }
    }

    /// The process that was ordered runs.
    pub(crate) fn process_started(&mut self, now: Instant) -> Welcome {
        let Some(process) = self.process_mut() else { return Welcome::Refuse };
        let Body::Ordered = process.body else { return Welcome::Refuse };
        let wanted = matches!(process.stage, Stage::Starting { .. });
        let conduct = if wanted { Conduct::Normal } else { Conduct::Killed(None) };
        process.body = Body::Running { since: now, conduct };
        if wanted { Welcome::Connect } else { Welcome::Refuse }
    }

    /// Its socket is open.
    pub(crate) fn connected(&mut self) {
        if let Some(process) = self.process_mut()
            && process.socket == Socket::Unopened
        {
            process.socket = Socket::Open;
        }
    }

    /// The process has introduced itself, and is told to load what is committed.
    ///
    /// # Errors
    /// It is of another build: starting it again changes nothing.
    pub(crate) fn hello(
        &mut self,
        build_id: &str,
        is_pinned: bool,
        committed: Vec<Generation>,
    ) -> Result<(), &'static str> {
        self.pinned = is_pinned;
        let Some(process) = self.process_mut() else { return Ok(()) };
        if build_id != BUILD_ID {
            process.hopeless = Some(format!(
                "--worker-binary is of another build: it says {build_id}, this supervisor is {BUILD_ID}"
            ));
            return Err("it is of another build");
        }
        if let Stage::Starting { to_load } = &mut process.stage {
            *to_load = committed;
        }
        Ok(())
    }

    /// It has loaded everything.
    pub(crate) fn ready(&mut self, now: Instant) {
        self.was_ready = true;
        let Some(process) = self.process_mut() else { return };
        if let Stage::Starting { .. } = process.stage {
            process.stage = Stage::Serving(Service::new(now));
            self.history.ready();
        }
    }

    /// It has refreshed a model.
    ///
    /// # Errors
    /// It broke the protocol.
    pub(crate) fn loaded(&mut self, slot: Slot, load: Load) -> Result<(), &'static str> {
        let Some(process) = self.process_mut() else { return Ok(()) };
        process.loads.loaded(slot, load)?;
        let newest = &mut self.newest_seen[usize::from(slot)];
        *newest = load.generation.max(*newest);
        Ok(())
    }

    /// It has dropped what it had of a model.
    ///
    /// # Errors
    /// It broke the protocol.
    pub(crate) fn unloaded(&mut self, slot: Slot) -> Result<(), &'static str> {
        self.process_mut().map_or(Ok(()), |process| process.loads.unloaded(slot))
    }

    /// It has tried to refresh a model and serves what it had.
    pub(crate) fn load_failed(&mut self, slot: Slot, generation: Generation) {
        if let Some(process) = self.process_mut() {
            process.loads.load_failed(slot, generation);
        }
    }

    /// Its process is stopped (`SIGSTOP`).
    pub(crate) fn stopped(&mut self, now: Instant) {
        if let Some(Process { body: Body::Running { conduct, .. }, .. }) = self.process_mut()
            && *conduct == Conduct::Normal
        {
            *conduct = Conduct::Stopped(now);
        }
    }

    /// Its process goes on.
    pub(crate) fn continued(&mut self) {
        if let Some(Process { body: Body::Running { conduct, .. }, .. }) = self.process_mut()
            && let Conduct::Stopped(_) = conduct
        {
            *conduct = Conduct::Normal;
        }
    }

    /// What it serves, by slot.
    pub(crate) fn loads(&self) -> Vec<Load> {
        let loads = self.process().map(|process| process.loads.all().to_vec());
        loads.unwrap_or_else(|| vec![Load::default(); self.models])
    }

    /// The generation of a model that it serves; 0 is none.
    pub(crate) fn generation(&self, slot: Slot) -> Generation {
        self.process().map_or(0, |process| process.loads.generation(slot))
    }

    /// The newest generation of a model that any of its processes had.
    pub(crate) fn newest_seen(&self, slot: Slot) -> Generation {
        self.newest_seen.get(usize::from(slot)).copied().unwrap_or(0)
    }

    /// Whether it has tried to load this generation and failed.
    pub(crate) fn failed_to_load(&self, slot: Slot, generation: Generation) -> bool {
        self.process().is_some_and(|process| process.loads.failed(slot, generation))
    }

    /// Whether it serves although there is something that it could not load.
    pub(crate) fn wants_retry(&self) -> bool {
        self.serves() && self.process().is_some_and(|process| process.loads.any_failed())
    }

    /// What is due now, if anything is.
    pub(crate) fn due(&self, now: Instant, supervision: &Supervision) -> Option<Due> {
        use crate::dispatch::policy::overdue::Overdue;
        let process = self.process()?;
        match process.overdue().find(|what| what.at(supervision) <= now)? {
            Overdue::Group(_) => Some(Due::Terminate),
            // Whatever else is overdue: a stopped process can do nothing about it.
            _ if process.is_stopped() => Some(Due::Kill(KillReason::Stopped)),
            _ => Some(Due::Kill(KillReason::Hung)),
        }
    }

    /// When [`Session::due`] has to be asked next.
    pub(crate) fn next_due(&self, supervision: &Supervision) -> Option<Instant> {
        self.process()?.overdue().map(|what| what.at(supervision)).min()
    }

    fn process(&self) -> Option<&Process> {
        match &self.phase {
            Phase::Alive(process) => Some(process),
            _ => None,
        }
    }

    fn process_mut(&mut self) -> Option<&mut Process> {
        match &mut self.phase {
            Phase::Alive(process) => Some(process),
            _ => None,
        }
    }

    fn service_mut(&mut self) -> Option<&mut Service> {
        self.process_mut()?.service_mut()
    }
}

impl AsRef<Session> for Session {
    fn as_ref(&self) -> &Session {
        self
    }
}

/// Where no worker serves and none is on the way to, the one with the shortest wait is started as
/// soon as its own failed starts allow: clients wait for it.
pub(crate) fn hurry<'a>(workers: impl Iterator<Item = &'a mut Session>) {
    let mut first: Option<&mut Wait> = None;
    for worker in workers {
        match (worker.state(), &mut worker.phase) {
            (State::Starting | State::Ready | State::Busy, _) => return,
            (_, Phase::Backoff(wait))
                if first.as_ref().is_none_or(|first| wait.start_at < first.start_at) =>
            {
                first = Some(wait);
            }
            _ => {}
        }
    }
    if let Some(first) = first {
        first.start_at = first.start_at.min(first.soonest);
    }
}

#[cfg(test)]
mod ending_tests;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod restarts_tests;
#[cfg(test)]
pub(super) mod script;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod simulation_world;
