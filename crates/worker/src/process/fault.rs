//! Errors that make a worker exit, and their exit codes, which tell the supervisor whether a
//! restart can help. A problem with a single text or version is not a fault: the worker reports it
//! and goes on.

use std::io;

use onnxd_proto::{control_page::ControlPageError, exit::ExitStatus};
use onnxd_sandbox::{SandboxError, scarcity::is_scarce};
use thiserror::Error;

use crate::session::RuntimeError;

/// Why a worker exits.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    /// The supervisor closed the socket or exited. This is how a worker is stopped.
    #[error("the supervisor closed the socket")]
    HungUp,
    /// The process was not started by a supervisor.
    #[error("onnxd-worker must be started by onnxd, not by hand: {0}")]
    Inherited(#[source] io::Error),
    /// See [`RuntimeError`].
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// See [`ControlPageError`].
    #[error(transparent)]
    ControlPage(#[from] ControlPageError),
    /// See [`SandboxError`].
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The supervisor sent an invalid message.
    #[error("the supervisor violated the protocol: {0}")]
    Protocol(String),
    /// The kernel refused a basic operation.
    #[error("system error: {0}")]
    System(#[source] io::Error),
}

impl Fault {
    /// Returns the exit code of this fault.
    pub(crate) fn status(&self) -> ExitStatus {
        match self {
            Self::HungUp => ExitStatus::Success,
            Self::Inherited(_) => ExitStatus::Usage,
            fault if is_scarce(fault) => ExitStatus::Exhausted,
            // A restart does not change the kernel or the library.
            Self::Runtime(_) | Self::Sandbox(_) => ExitStatus::Configuration,
            Self::ControlPage(_) | Self::Protocol(_) | Self::System(_) => ExitStatus::Internal,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, UnexpectedEof};
        match error.kind() {
            // The supervisor may exit in the middle of a frame, or without reading ours.
            BrokenPipe | ConnectionReset | UnexpectedEof => Self::HungUp,
            InvalidData => Self::Protocol(error.to_string()),
            _ => Self::System(error),
        }
    }
}

impl From<nix::Error> for Fault {
    fn from(error: nix::Error) -> Self {
        Self::System(error.into())
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn shortages_are_scarce_wherever_they_occur() {
        let full = || io::Error::from_raw_os_error(Errno::EMFILE as i32);
        for fault in [
            Fault::from(full()),
            Fault::from(SandboxError::Io(full())),
            Fault::from(SandboxError::Process(Errno::ENOMEM)),
        ] {
            assert_eq!(fault.status(), ExitStatus::Exhausted, "{fault}");
        }
        let denied = io::Error::from_raw_os_error(Errno::EACCES as i32);
        assert_eq!(Fault::from(SandboxError::Io(denied)).status(), ExitStatus::Configuration);
        assert_eq!(Fault::from(Errno::EIO).status(), ExitStatus::Internal);
        assert_eq!(Fault::HungUp.status(), ExitStatus::Success);
    }
}
