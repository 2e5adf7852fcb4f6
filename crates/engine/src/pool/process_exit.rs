//! Describes how a worker's process ended. Created by
//! [`process_monitor`](crate::pool::process_monitor); the dispatcher bases its decisions on it.

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
pub struct ProcessExit {
    /// The exit code, if it exited.
    pub code: Option<i32>,
    /// The signal that killed it, if any.
    pub signal: Option<i32>,
    /// A description for logs.
    pub reason: String,
    /// Whether a temporary shortage of system resources prevented the start or ended the process.
    pub scarce: bool,
}

impl ProcessExit {
    /// Describes a process that never ran, or whose exit status is unknown.
    pub fn unknown(reason: String) -> Self {
        Self { code: None, signal: None, reason, scarce: false }
    }

    /// Describes a process that could not be started.
    pub fn not_started(error: &io::Error) -> Self {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        let scarce = errno.is_some_and(|errno| SCARCE.contains(&errno));
        Self { scarce, ..Self::unknown(format!("could not start: {error}")) }
    }

    /// Returns whether SIGKILL ended it.
    pub fn was_killed(&self) -> bool {
        self.signal == Some(Signal::KILL.as_raw())
    }

    /// Returns the reason under which restarts are counted.
    pub fn restart_reason(&self) -> RestartReason {
        match self {
            exit if exit.was_killed() => RestartReason::Killed,
            Self { signal: Some(_), .. } => RestartReason::Signal,
            Self { code: Some(_), .. } => RestartReason::Exited,
            _ => RestartReason::Unknown,
        }
    }

    /// Returns whether the cause lies outside the process. No internal fault raises SIGKILL, a
    /// worker exits with 0 only on request, and a shortage is the system's.
    pub fn is_blameless(&self) -> bool {
        self.was_killed() || self.code == Some(ExitStatus::Success as i32) || self.scarce
    }
}

impl From<&WaitIdStatus> for ProcessExit {
    fn from(status: &WaitIdStatus) -> Self {
        let (code, signal) = (status.exit_status(), status.terminating_signal());
        let reason = match (code, signal) {
            (Some(code), _) => format!("exit code {code}"),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => "unknown exit status".to_owned(),
        };
        Self { code, signal, reason, scarce: code == Some(ExitStatus::Exhausted as i32) }
    }
}
