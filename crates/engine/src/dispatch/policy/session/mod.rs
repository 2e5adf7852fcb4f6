//! One worker as the supervisor sees it: a pure state machine over all its processes. The
//! [actor](crate::dispatch::actor) reports events, in whatever order threads and sockets deliver
//! them, and carries out what the returned values say.
//!
//! ```text
//!            start due          ready             group sent
//! backoff ───────────► starting ─────► ready ◄──────────────► busy
//!    ▲                    │              │      group done      │
//!    └────────────────────┴──────────────┴──────────────────────┘  ended
//!                         └──► failed   (cannot be started, or too often)
//!            any ──► draining ──► stopped
//!   ready or busy ──► draining ──► backoff  (recycled: restarted immediately, not a failure)
//! ```
//!
//! A process is finished when it has exited *and* its socket has closed, in either order: messages
//! written before a crash are valid answers. Until then its items stay with it, unless it broke the
//! protocol. When no worker serves, [`shorten_wait`] shortens the wait of one.
//!
//! - [`process`]: the states of one process; [`loads`]: its loads.
//! - [`exit`]: how it exits.
//! - [`work`]: groups and pings.

mod exit;
mod loads;
mod process;
mod work;

use std::time::Instant;

use onnxd_proto::{BUILD_ID, control_page::Slot, generation::Generation};
use onnxd_telemetry::metrics::KillReason;

pub(crate) use exit::{Blame, Finished, Progress};

use crate::dispatch::{
    policy::{
        overdue::OverdueAction,
        restarts::{History, RestartTimes},
        session::process::{Liveness, Process, ProcessState, Service, Socket, Stage},
    },
    worker::{Load, State},
};
use crate::pool::{Epoch, Supervision};

/// One worker's state and history.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    models: usize,
    /// The number of the current or last process.
    epoch: Epoch,
    history: History,
    /// Whether the last process that reported it is pinned to its CPU.
    pinned: bool,
    was_ready: bool,
    /// The newest generation that any of its processes has loaded, by slot.
    newest_seen: Vec<Generation>,
}

#[derive(Debug)]
enum Phase {
    /// No process; waiting to be started.
    Backoff(RestartTimes),
    /// Has a process.
    Alive(Process),
    /// Exited on request.
    Stopped,
    /// Given up, with the reason if a restart cannot succeed.
    Failed(Option<String>),
}

/// What to do with the socket of a new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum SocketAction {
    /// Open it, then call [`Session::connected`].
    Connect,
    /// Drop it and kill the process, which is no longer needed.
    Refuse,
}

impl Session {
    /// Creates a worker to be started at `now` and restarted at most `restarts_max` times within a
    /// minute.
    pub fn new(now: Instant, models: usize, restarts_max: u32) -> Self {
        Self {
            phase: Phase::Backoff(RestartTimes { start_at: now, soonest: now }),
            models,
            epoch: 0,
            history: History::new(restarts_max),
            pinned: false,
            was_ready: false,
            newest_seen: vec![0; models],
        }
    }

    /// Returns the current state.
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

    /// Returns whether messages of this process count. The items of an earlier one were given to
    /// another worker.
    pub(crate) fn listens_to(&self, epoch: Epoch) -> bool {
        self.epoch == epoch && self.process().is_some_and(Process::listens)
    }

    /// Returns how often the worker was restarted.
    pub(crate) fn restarts(&self) -> u64 {
        self.history.restarts()
    }

    /// Returns whether the worker is pinned to its CPU.
    pub(crate) fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Returns whether any of its processes became ready.
    pub(crate) fn was_ready(&self) -> bool {
        self.was_ready
    }

    /// Returns the reason a restart cannot succeed, if any.
    pub(crate) fn unrecoverable(&self) -> Option<&str> {
        match &self.phase {
            Phase::Failed(reason) => reason.as_deref(),
            Phase::Alive(process) => process.unrecoverable.as_deref(),
            Phase::Backoff(_) | Phase::Stopped => None,
        }
    }

    /// Returns whether the worker answers requests.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.process(), Some(Process { stage: Stage::Serving(_), .. }))
    }

    /// Returns whether the worker serves and is not stopped.
    pub(crate) fn is_running(&self) -> bool {
        self.serves() && !self.is_stopped()
    }

    /// Returns whether its process is stopped (`SIGSTOP`), or was killed because of that.
    pub(crate) fn is_stopped(&self) -> bool {
        self.process().is_some_and(Process::is_stopped)
    }

    /// Returns whether the worker drains in order to be restarted.
    pub(crate) fn is_recycled(&self) -> bool {
        matches!(self.process(), Some(Process { stage: Stage::Recycling(_), .. }))
    }

    /// Returns when [`Session::start_due`] must be called next.
    pub(crate) fn start_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Backoff(wait) => Some(wait.start_at),
            _ => None,
        }
    }

    /// Returns the number of the process to start now, if one is due. The worker is then starting.
    pub(crate) fn start_due(&mut self, now: Instant) -> Option<Epoch> {
        self.start_at().filter(|at| *at <= now)?;
        self.phase = Phase::Alive(Process::new(self.models));
        self.epoch += 1;
        Some(self.epoch)
    }

    /// Gives up on the worker if it is waiting to be restarted.
    pub(crate) fn give_up(&mut self) {
        if let Phase::Backoff(_) = self.phase {
            self.phase = Phase::Failed(None);
        }
    }

    /// Records that the requested process runs.
    pub(crate) fn process_started(&mut self, now: Instant) -> SocketAction {
        let Some(process) = self.process_mut() else { return SocketAction::Refuse };
        let ProcessState::Requested = process.state else { return SocketAction::Refuse };
        let wanted = matches!(process.stage, Stage::Starting { .. });
        let liveness = if wanted { Liveness::Normal } else { Liveness::Killed(None) };
        process.state = ProcessState::Running { since: now, liveness };
        if wanted { SocketAction::Connect } else { SocketAction::Refuse }
    }

    /// Records that its socket is open.
    pub(crate) fn connected(&mut self) {
        if let Some(process) = self.process_mut()
            && process.socket == Socket::Unopened
        {
            process.socket = Socket::Open;
        }
    }

    /// Records the greeting of a process, which will be told to load what is committed.
    ///
    /// # Errors
    /// The process is from another build, so a restart cannot succeed.
    pub(crate) fn hello(
        &mut self,
        build_id: &str,
        is_pinned: bool,
        committed: Vec<Generation>,
    ) -> Result<(), &'static str> {
        self.pinned = is_pinned;
        let Some(process) = self.process_mut() else { return Ok(()) };
        if build_id != BUILD_ID {
            process.unrecoverable = Some(format!(
                "--worker-binary is from another build: it reports {build_id}, this supervisor is {BUILD_ID}"
            ));
            return Err("is from another build");
        }
        if let Stage::Starting { to_load } = &mut process.stage {
            *to_load = committed;
        }
        Ok(())
    }

    /// Records that all models are loaded.
    pub(crate) fn ready(&mut self, now: Instant) {
        self.was_ready = true;
        let Some(process) = self.process_mut() else { return };
        if let Stage::Starting { .. } = process.stage {
            process.stage = Stage::Serving(Service::new(now));
            self.history.ready();
        }
    }

    /// Records that the process has refreshed a model.
    ///
    /// # Errors
    /// The worker broke the protocol.
    pub(crate) fn loaded(&mut self, slot: Slot, load: Load) -> Result<(), &'static str> {
        let Some(process) = self.process_mut() else { return Ok(()) };
        process.loads.loaded(slot, load)?;
        let newest = &mut self.newest_seen[usize::from(slot)];
        *newest = load.generation.max(*newest);
        Ok(())
    }

    /// Records that the process has dropped a model.
    ///
    /// # Errors
    /// The worker broke the protocol.
    pub(crate) fn unloaded(&mut self, slot: Slot) -> Result<(), &'static str> {
        self.process_mut().map_or(Ok(()), |process| process.loads.unloaded(slot))
    }

    /// Records that a refresh failed. The process still serves the previous generation.
    pub(crate) fn load_failed(&mut self, slot: Slot, generation: Generation, reason: String) {
        if let Some(process) = self.process_mut() {
            process.loads.load_failed(slot, generation, reason);
        }
    }

    /// Records that its process was stopped (`SIGSTOP`).
    pub(crate) fn stopped(&mut self, now: Instant) {
        if let Some(Process { state: ProcessState::Running { liveness, .. }, .. }) =
            self.process_mut()
            && *liveness == Liveness::Normal
        {
            *liveness = Liveness::Stopped(now);
        }
    }

    /// Records that its process continued.
    pub(crate) fn continued(&mut self) {
        if let Some(Process { state: ProcessState::Running { liveness, .. }, .. }) =
            self.process_mut()
            && let Liveness::Stopped(_) = liveness
        {
            *liveness = Liveness::Normal;
        }
    }

    /// Returns its loads, by slot.
    pub(crate) fn loads(&self) -> Vec<Load> {
        let loads = self.process().map(|process| process.loads.all().to_vec());
        loads.unwrap_or_else(|| vec![Load::default(); self.models])
    }

    /// Returns the generation of a model that it serves; 0 means none.
    pub(crate) fn generation(&self, slot: Slot) -> Generation {
        self.process().map_or(0, |process| process.loads.generation(slot))
    }

    /// Returns the newest generation of a model that any of its processes had.
    pub(crate) fn newest_seen(&self, slot: Slot) -> Generation {
        self.newest_seen.get(usize::from(slot)).copied().unwrap_or(0)
    }

    /// Returns whether it tried to load this generation and failed.
    pub(crate) fn failed_to_load(&self, slot: Slot, generation: Generation) -> bool {
        self.process().is_some_and(|process| process.loads.failed(slot, generation))
    }

    /// Returns why it could not load this generation, if it tried and failed.
    pub(crate) fn load_failure(&self, slot: Slot, generation: Generation) -> Option<&str> {
        self.process()?.loads.failure(slot, generation)
    }

    /// Returns whether it serves but has failed loads to retry.
    pub(crate) fn wants_retry(&self) -> bool {
        self.serves() && self.process().is_some_and(|process| process.loads.any_failed())
    }

    /// Returns the action that is due now, if any.
    pub(crate) fn due(&self, now: Instant, supervision: &Supervision) -> Option<OverdueAction> {
        use crate::dispatch::policy::overdue::Overdue;
        let process = self.process()?;
        match process.overdue().find(|what| what.at(supervision) <= now)? {
            Overdue::Group(_) => Some(OverdueAction::Terminate),
            // Takes precedence over other reasons: a stopped process cannot react to anything.
            _ if process.is_stopped() => Some(OverdueAction::Kill(KillReason::Stopped)),
            _ => Some(OverdueAction::Kill(KillReason::Hung)),
        }
    }

    /// Returns when [`Session::due`] must be called next.
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

/// Shortens the wait of one worker if none serves or is starting, because clients are waiting.
/// Chooses the one with the shortest wait, and starts it as early as its own failed starts allow.
pub(crate) fn shorten_wait<'a>(workers: impl Iterator<Item = &'a mut Session>) {
    let mut first: Option<&mut RestartTimes> = None;
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
mod exit_tests;
#[cfg(test)]
mod restart_simulation_tests;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
pub(super) mod script;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod simulation_world;
