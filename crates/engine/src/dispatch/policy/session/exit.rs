//! How a worker exits: on its own, killed by the supervisor, or on request.

use std::time::Instant;

use onnxd_proto::{control_page::Slot, exit::ExitStatus, generation::Generation};
use onnxd_telemetry::metrics::KillReason;

use crate::dispatch::{
    policy::{
        groups::{Suspect, UnansweredItems},
        restarts::{CountsAsDeath, End},
        session::{
            Phase, Session,
            process::{Liveness, Ping, Process, ProcessState, Socket, Stage},
        },
    },
    worker::State,
};
use crate::pool::process_exit::ProcessExit;

/// Whether a process is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Progress {
    /// The process has not exited yet, or its socket has not closed.
    Pending,
    /// The process has exited, and all messages have been read. Call [`Session::finish`].
    Done,
}

/// How far the models are to blame for the exit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Nothing: it was stopped from outside, recycled, or short of resources.
    Nothing,
    /// It was killed from outside, by an administrator or by the kernel when memory ran out.
    Killed,
    /// It crashed or hung.
    Fault,
}

/// The outcome for a worker whose process is finished.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How the process ended.
    pub exit: ProcessExit,
    /// The worker's new state.
    pub state: State,
    /// Whether it exited as requested by recycling.
    pub recycled: bool,
    /// Whether this counts as a restart.
    pub restarted: bool,
    /// Whether it counts in the budget of all workers.
    pub counts: CountsAsDeath,
}

impl Session {
    /// Starts recycling: the worker receives nothing new, exits once it has answered everything,
    /// and is restarted immediately. Returns `false` if it does not serve.
    pub(crate) fn recycle(&mut self) -> bool {
        self.restage(|stage| match stage {
            Stage::Serving(service) => Stage::Recycling(service),
            other => other,
        });
        self.is_recycled()
    }

    /// Starts draining: the worker receives nothing new and is not restarted.
    pub(crate) fn drain(&mut self) {
        self.restage(|stage| match stage {
            Stage::Starting { .. } => Stage::Stopping(None),
            Stage::Serving(service) | Stage::Recycling(service) => Stage::Stopping(Some(service)),
            Stage::Stopping(service) => Stage::Stopping(service),
        });
        if let Phase::Backoff(_) = self.phase {
            self.phase = Phase::Stopped;
        }
        self.hang_up();
    }

    fn restage(&mut self, change: impl FnOnce(Stage) -> Stage) {
        if let Some(process) = self.process_mut() {
            let stage = std::mem::replace(&mut process.stage, Stage::Stopping(None));
            process.stage = change(stage);
        }
    }

    /// Marks our sending end of the socket as closed, which makes the process exit.
    pub(crate) fn hang_up(&mut self) {
        if let Some(process) = self.process_mut()
            && process.socket == Socket::Open
        {
            process.socket = Socket::HungUp;
        }
    }

    /// Marks the process as killed. Returns whether to send a signal, which is not the case if
    /// there is no process or it was killed already.
    #[must_use]
    pub(crate) fn kill(&mut self, reason: Option<KillReason>) -> bool {
        let Some(Process { state: ProcessState::Running { liveness, .. }, .. }) =
            self.process_mut()
        else {
            return false;
        };
        let is_new = !matches!(liveness, Liveness::Killed(_));
        if is_new {
            *liveness = Liveness::Killed(reason);
        }
        is_new
    }

    /// Records that the process exited or could not be started. Its last messages may still be
    /// unread.
    pub(crate) fn process_ended(&mut self, exit: ProcessExit, now: Instant) -> Progress {
        self.hang_up();
        let Some(process) = self.process_mut() else { return Progress::Pending };
        let killed = process.killed();
        if !matches!(process.state, ProcessState::Exited { .. }) {
            process.state = ProcessState::Exited { exit, at: now, killed };
        }
        self.progress()
    }

    /// Records that the socket has been read to its end.
    pub(crate) fn socket_ended(&mut self) -> Progress {
        self.stop_listening(Socket::Closed)
    }

    /// Records a protocol violation: all further messages are ignored.
    pub(crate) fn broke_protocol(&mut self) -> Progress {
        self.stop_listening(Socket::Broken)
    }

    fn stop_listening(&mut self, socket: Socket) -> Progress {
        match self.process_mut() {
            Some(process) if process.listens() => process.socket = socket,
            _ => return Progress::Pending,
        }
        self.progress()
    }

    /// Returns when [`Session::give_up_reading`] must be called next.
    pub(crate) fn read_until(&self) -> Option<Instant> {
        self.process()?.read_until()
    }

    /// Stops waiting for the socket if it stays open after the process has exited.
    pub(crate) fn give_up_reading(&mut self, now: Instant) -> Progress {
        match self.read_until() {
            Some(at) if at <= now => self.socket_ended(),
            _ => Progress::Pending,
        }
    }

    fn progress(&self) -> Progress {
        match self.process() {
            Some(process) if process.has_ended() => Progress::Done,
            _ => Progress::Pending,
        }
    }

    /// Returns how the process ended, until [`Session::finish`].
    pub(crate) fn exit(&self) -> Option<&ProcessExit> {
        match &self.process()?.state {
            ProcessState::Exited { exit, .. } => Some(exit),
            _ => None,
        }
    }

    /// Returns how far the models are to blame for the exit of the process, and the load during
    /// which it ended. That is a load at its start, or one triggered by a ping while it was idle.
    /// Groups are not covered: see [`Session::take_unanswered`].
    pub(crate) fn blame(
        &self,
        committed: impl Fn(Slot) -> Generation,
    ) -> (Blame, Option<(Slot, Generation)>) {
        let Some((process, exit)) = self.process().zip(self.exit()) else {
            return (Blame::Nothing, None);
        };
        if self.was_stopped() || self.is_recycled() || exit.scarce {
            return (Blame::Nothing, None);
        }
        let blame = match process.killed() {
            None if exit.is_blameless() => Blame::Killed,
            _ => Blame::Fault,
        };
        let load = match &process.stage {
            Stage::Starting { to_load } => process.loads.missing(to_load, committed),
            Stage::Serving(service) => {
                // Triggered by a ping rather than a group.
                let was_idle = service.groups.is_empty() && process.socket != Socket::Broken;
                let was_pinged = was_idle && service.ping != Ping::None && !exit.is_blameless();
                was_pinged.then(|| process.loads.behind(committed)).flatten()
            }
            Stage::Recycling(_) | Stage::Stopping(_) => None,
        };
        (blame, load)
    }

    /// Returns whether it exited, or will exit, because it was stopped from outside. Its groups are
    /// not to blame then.
    fn was_stopped(&self) -> bool {
        self.process().and_then(Process::killed) == Some(KillReason::Stopped)
    }

    /// Takes the unanswered groups, which another worker must compute. Nothing more is sent to this
    /// one.
    pub(crate) fn take_unanswered(&mut self) -> Vec<UnansweredItems> {
        self.hang_up();
        let suspect = if self.was_stopped() { Suspect::Nothing } else { Suspect::First };
        let Some(process) = self.process_mut() else { return Vec::new() };
        let Some(service) = process.service_mut() else { return Vec::new() };
        service.groups.take(suspect)
    }

    /// Cleans up after a finished process. `jitter`, from 0 to 1, spreads the restarts of several
    /// workers. Returns `None` if the process is not finished.
    pub(crate) fn finish(&mut self, now: Instant, jitter: f64) -> Option<Finished> {
        let process = match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Alive(process) if process.has_ended() => process,
            other => {
                self.phase = other;
                return None;
            }
        };
        let ProcessState::Exited { exit, .. } = process.state else { return None };
        let is_recycled = matches!(process.stage, Stage::Recycling(_));
        let recycled = is_recycled && exit.code == Some(ExitStatus::Success as i32);
        let wrong = exit.code == Some(ExitStatus::Configuration as i32);
        let unrecoverable = process
            .unrecoverable
            .or_else(|| wrong.then(|| "invalid configuration; see the worker's log".to_owned()));
        let end = match &unrecoverable {
            Some(_) => End::Permanent,
            None if exit.scarce => End::NotStarted,
            None if recycled => End::Requested,
            None => End::Accident,
        };
        let restarts = self.history.restarts();
        let counts = match process.stage {
            Stage::Stopping(_) => CountsAsDeath::No,
            Stage::Starting { .. } => self.wait(now, (end, None), unrecoverable, jitter),
            Stage::Serving(service) | Stage::Recycling(service) => {
                let ready_for = now.saturating_duration_since(service.since);
                self.wait(now, (end, Some(ready_for)), unrecoverable, jitter)
            }
        };
        let restarted = self.history.restarts() > restarts;
        Some(Finished { exit, state: self.state(), recycled, restarted, counts })
    }

    fn wait(
        &mut self,
        now: Instant,
        (end, ready_for): (End, Option<std::time::Duration>),
        unrecoverable: Option<String>,
        jitter: f64,
    ) -> CountsAsDeath {
        let (wait, counts) = self.history.ended(now, end, ready_for, jitter);
        self.phase = wait.map_or(Phase::Failed(unrecoverable), Phase::Backoff);
        counts
    }
}
