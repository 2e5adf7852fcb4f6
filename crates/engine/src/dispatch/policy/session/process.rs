//! One process of a worker, from the order to start it to the end of both the process and its
//! socket. Each state carries the data that belongs to it. Part of the
//! [session](crate::dispatch::policy::session), which alone changes it.

use std::time::Instant;

use onnxd_proto::generation::Generation;
use onnxd_telemetry::metrics::KillReason;

use crate::dispatch::policy::{
    groups::Groups,
    overdue::{Overdue, READ_GRACE},
    session::loads::Loads,
};
use crate::pool::ended::Ended;

/// A process and what is known of it.
#[derive(Debug)]
pub(super) struct Process {
    pub stage: Stage,
    pub body: Body,
    pub socket: Socket,
    pub loads: Loads,
    /// Why starting the worker again is hopeless, if it is.
    pub hopeless: Option<String>,
}

/// How far the worker is.
#[derive(Debug)]
pub(super) enum Stage {
    /// It loads what it was told to: by slot, and empty before it has said hello.
    Starting { to_load: Vec<Generation> },
    /// It answers requests.
    Serving(Service),
    /// It gets nothing new, ends when it has answered what it has, and is started again at once.
    Recycling(Service),
    /// It gets nothing new and is not started again. `None`: it never served.
    Stopping(Option<Service>),
}

/// What a worker that has become ready does.
#[derive(Debug)]
pub(super) struct Service {
    /// When it became ready.
    pub since: Instant,
    pub groups: Groups,
    pub ping: Ping,
}

/// Whether a sign of life is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ping {
    None,
    /// A ping has no answer since then.
    Sent(Instant),
    /// The same, and another ping is sent after the answer: the worker may have read the first one
    /// before what the second one is about.
    Owed(Instant),
}

/// The process as the system sees it.
#[derive(Debug)]
pub(super) enum Body {
    /// The keeper was told to start it.
    Ordered,
    /// It runs.
    Running { since: Instant, conduct: Conduct },
    /// It has ended; what it wrote may not have been read.
    Ended { ended: Ended, at: Instant, killed: Option<KillReason> },
}

/// Whether a process goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conduct {
    Normal,
    /// It is stopped (`SIGSTOP`) since then.
    Stopped(Instant),
    /// We have killed it, for this reason if for any; its end is not reported yet.
    Killed(Option<KillReason>),
}

/// Our end of its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    /// There is none yet, or it could not be used.
    Unopened,
    /// Messages go both ways.
    Open,
    /// We send nothing more; what arrives still counts.
    HungUp,
    /// Everything was read.
    Closed,
    /// The worker broke the protocol: what arrives counts no more, and what it had was taken back.
    Broken,
}

impl Process {
    pub(super) fn new(models: usize) -> Self {
        Self {
            stage: Stage::Starting { to_load: Vec::new() },
            body: Body::Ordered,
            socket: Socket::Unopened,
            loads: Loads::new(models),
            hopeless: None,
        }
    }

    /// What it does, once it has become ready.
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

    /// Whether what arrives from its socket counts.
    pub(super) fn listens(&self) -> bool {
        matches!(self.socket, Socket::Open | Socket::HungUp)
    }

    /// Whether both the process and its socket have ended.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.body, Body::Ended { .. }) && !self.listens()
    }

    /// When reading what an ended process wrote is given up.
    pub(super) fn read_until(&self) -> Option<Instant> {
        match self.body {
            Body::Ended { at, .. } if self.listens() => Some(at + READ_GRACE),
            _ => None,
        }
    }

    pub(super) fn conduct(&self) -> Option<Conduct> {
        match self.body {
            Body::Running { conduct, .. } => Some(conduct),
            _ => None,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(
            self.conduct(),
            Some(Conduct::Stopped(_) | Conduct::Killed(Some(KillReason::Stopped)))
        )
    }

    /// Why we killed it, if it has ended or will end because of that.
    pub(super) fn killed(&self) -> Option<KillReason> {
        match &self.body {
            Body::Running { conduct: Conduct::Killed(reason), .. } => *reason,
            Body::Ended { killed, .. } => *killed,
            _ => None,
        }
    }

    /// What it must have done by when. Nothing more is expected of a process that we have killed.
    pub(super) fn overdue(&self) -> impl Iterator<Item = Overdue> + '_ {
        let (group, ping) = match (self.service(), self.socket) {
            (Some(service), Socket::Open) => (service.groups.overdue(), service.ping),
            _ => (None, Ping::None),
        };
        let is_idle = self.service().is_some_and(|service| service.groups.is_empty());
        // A busy worker answers when its group is done, and has until the group's deadline.
        let ping = match ping {
            Ping::Sent(at) | Ping::Owed(at) if is_idle => Some(Overdue::Pinged(at)),
            _ => None,
        };
        let (starting, stopped, is_killed) = match self.body {
            Body::Running { since, conduct } => {
                let is_starting = matches!(self.stage, Stage::Starting { .. });
                let stopped = match conduct {
                    Conduct::Stopped(at) => Some(Overdue::Stopped(at)),
                    _ => None,
                };
                let starting = is_starting.then_some(Overdue::Starting(since));
                (starting, stopped, matches!(conduct, Conduct::Killed(_)))
            }
            Body::Ordered | Body::Ended { .. } => (None, None, false),
        };
        let all = group.into_iter().chain(stopped).chain(starting).chain(ping);
        all.filter(move |_| !is_killed)
    }
}
