//! One process of a worker, from the request to start it until the process has exited and its
//! socket has closed. Each state carries its own data. Only the
//! [session](crate::dispatch::policy::session) modifies it.

use std::time::Instant;

use onnxd_proto::generation::Generation;
use onnxd_telemetry::metrics::KillReason;

use crate::dispatch::policy::{
    groups::Groups,
    overdue::{Overdue, READ_GRACE},
    session::loads::Loads,
};
use crate::pool::process_exit::ProcessExit;

/// A process and its state.
#[derive(Debug)]
pub(super) struct Process {
    pub stage: Stage,
    pub state: ProcessState,
    pub socket: Socket,
    pub loads: Loads,
    /// The reason a restart cannot succeed, if any.
    pub unrecoverable: Option<String>,
}

/// The worker's stage.
#[derive(Debug)]
pub(super) enum Stage {
    /// Loading: `to_load` holds generations by slot and is empty until the process says hello.
    Starting { to_load: Vec<Generation> },
    /// Answers requests.
    Serving(Service),
    /// Receives nothing new, exits once it has answered everything, and is restarted immediately.
    Recycling(Service),
    /// Receives nothing new and is not restarted. `None` if it never served.
    Stopping(Option<Service>),
}

/// The work of a worker that has become ready.
#[derive(Debug)]
pub(super) struct Service {
    /// When it became ready.
    pub since: Instant,
    pub groups: Groups,
    pub ping: Ping,
}

/// Whether a ping awaits its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ping {
    None,
    /// The time of an unanswered ping.
    Sent(Instant),
    /// As `Sent`, but another ping follows the answer. The worker may have read the first one
    /// before the event that the second one is about.
    Owed(Instant),
}

/// The state of the operating system process.
#[derive(Debug)]
pub(super) enum ProcessState {
    /// The process monitor was told to start it.
    Requested,
    /// Running.
    Running { since: Instant, liveness: Liveness },
    /// Exited; its last messages may still be unread.
    Exited { exit: ProcessExit, at: Instant, killed: Option<KillReason> },
}

/// Whether a running process makes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    Normal,
    /// Stopped (`SIGSTOP`) at this time.
    Stopped(Instant),
    /// Killed by the supervisor, for this reason if any; its exit is not reported yet.
    Killed(Option<KillReason>),
}

/// Our end of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    /// Not open yet, or unusable.
    Unopened,
    /// Messages go both ways.
    Open,
    /// We send nothing more; incoming messages still count.
    HungUp,
    /// Read to its end.
    Closed,
    /// The worker broke the protocol: incoming messages are ignored, and its items were taken back.
    Broken,
}

impl Process {
    pub(super) fn new(models: usize) -> Self {
        Self {
            stage: Stage::Starting { to_load: Vec::new() },
            state: ProcessState::Requested,
            socket: Socket::Unopened,
            loads: Loads::new(models),
            unrecoverable: None,
        }
    }

    /// Returns its work, once it has become ready.
    pub(super) fn service(&self) -> Option<&Service> {
        match &self.stage {
            Stage::Starting { .. } => None,
            Stage::Serving(service) | Stage::Recycling(service) => Some(service),
            Stage::Stopping(service) => service.as_ref(),
        }
    }

    pub(super) fn service_mut(&mut self) -> Option<&mut Service> {
        match &mut self.stage {
            Stage::Starting { .. } => None,
            Stage::Serving(service) | Stage::Recycling(service) => Some(service),
            Stage::Stopping(service) => service.as_mut(),
        }
    }

    /// Returns whether incoming messages count.
    pub(super) fn listens(&self) -> bool {
        matches!(self.socket, Socket::Open | Socket::HungUp)
    }

    /// Returns whether the process has exited and its socket has closed.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, ProcessState::Exited { .. }) && !self.listens()
    }

    /// Returns until when to read the messages of an exited process.
    pub(super) fn read_until(&self) -> Option<Instant> {
        match self.state {
            ProcessState::Exited { at, .. } if self.listens() => Some(at + READ_GRACE),
            _ => None,
        }
    }

    pub(super) fn liveness(&self) -> Option<Liveness> {
        match self.state {
            ProcessState::Running { liveness, .. } => Some(liveness),
            _ => None,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(
            self.liveness(),
            Some(Liveness::Stopped(_) | Liveness::Killed(Some(KillReason::Stopped)))
        )
    }

    /// Returns why the supervisor killed it, if it did.
    pub(super) fn killed(&self) -> Option<KillReason> {
        match &self.state {
            ProcessState::Running { liveness: Liveness::Killed(reason), .. } => *reason,
            ProcessState::Exited { killed, .. } => *killed,
            _ => None,
        }
    }

    /// Returns everything that it must do in time. Nothing more is expected of a killed process.
    pub(super) fn overdue(&self) -> impl Iterator<Item = Overdue> + '_ {
        let (group, ping) = match (self.service(), self.socket) {
            (Some(service), Socket::Open) => (service.groups.overdue(), service.ping),
            _ => (None, Ping::None),
        };
        let is_idle = self.service().is_some_and(|service| service.groups.is_empty());
        // A busy worker answers when its group is done; the group's deadline applies until then.
        let ping = match ping {
            Ping::Sent(at) | Ping::Owed(at) if is_idle => Some(Overdue::Pinged(at)),
            _ => None,
        };
        let (starting, stopped, is_killed) = match self.state {
            ProcessState::Running { since, liveness } => {
                let is_starting = matches!(self.stage, Stage::Starting { .. });
                let stopped = match liveness {
                    Liveness::Stopped(at) => Some(Overdue::Stopped(at)),
                    _ => None,
                };
                let starting = is_starting.then_some(Overdue::Starting(since));
                (starting, stopped, matches!(liveness, Liveness::Killed(_)))
            }
            ProcessState::Requested | ProcessState::Exited { .. } => (None, None, false),
        };
        let all = group.into_iter().chain(stopped).chain(starting).chain(ping);
        all.filter(move |_| !is_killed)
    }
}
