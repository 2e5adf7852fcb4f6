//! How a worker's process ended. Plain data: the [keeper](crate::pool::keeper) makes it, and the
//! dispatcher decides by it.

use std::io;

use onnxd_proto::exit::ExitStatus;
use onnxd_telemetry::metrics::RestartReason;
use rustix::{
    io::Errno,
    process::{Signal, WaitIdStatus},
};

/// Errors that mean the system is temporarily out of processes, descriptors or memory.
const SCARCE: [Errno; 4] = [Errno::AGAIN, Errno::MFILE, Errno::NFILE, Errno::NOMEM];

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The exit code, where there is one.
    pub code: Option<i32>,
    /// The signal that ended it, where one did.
    pub signal: Option<i32>,
    /// For logs.
    pub reason: String,
    /// It could not be started, or ended, because the system had not enough of something, which
    /// passes.
    pub scarce: bool,
}

impl Ended {
    /// It did not run at all, or how it ended is unknown.
    pub fn unknown(reason: String) -> Self {
        Self { code: None, signal: None, reason, scarce: false }
    }

    /// It could not be started.
    pub fn not_started(error: &io::Error) -> Self {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        let scarce = errno.is_some_and(|errno| SCARCE.contains(&errno));
        Self { scarce, ..Self::unknown(format!("not started: {error}")) }
    }

    /// Whether SIGKILL ended it.
    pub fn was_killed(&self) -> bool {
        self.signal == Some(Signal::KILL.as_raw())
    }

    /// The reason that restarts are counted by.
    pub fn restart_reason(&self) -> RestartReason {
        match self {
            ended if ended.was_killed() => RestartReason::Killed,
            Self { signal: Some(_), .. } => RestartReason::Signal,
            Self { code: Some(_), .. } => RestartReason::Exited,
            _ => RestartReason::Unknown,
        }
    }

    /// Whether something else than a fault of its own ended it: no process raises SIGKILL by a fault,
    /// a worker exits with 0 only when it is told to, by whomever, and a shortage is the system's.
    pub fn is_blameless(&self) -> bool {
        self.was_killed() || self.code == Some(ExitStatus::Fine as i32) || self.scarce
    }
}

impl From<&WaitIdStatus> for Ended {
    fn from(status: &WaitIdStatus) -> Self {
        let (code, signal) = (status.exit_status(), status.terminating_signal());
        let reason = match (code, signal) {
            (Some(code), _) => format!("exit code {code}"),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => "nobody knows how".to_owned(),
        };
        Self { code, signal, reason, scarce: code == Some(ExitStatus::Scarce as i32) }
    }
}
