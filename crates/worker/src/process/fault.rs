//! What ends a worker, and the exit code that tells the supervisor whether starting another one
//! can help. What only concerns one text or one version is no fault; it is answered.

use std::io;

use onnxd_proto::{control_page::ControlPageError, exit::ExitStatus};
use thiserror::Error;

use crate::{
    sandbox::{SandboxError, scarcity::is_scarce},
    session::RuntimeError,
};

/// Why a worker ends.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    /// The supervisor closed the socket or is gone. This is how a worker is stopped.
    #[error("the supervisor closed the socket")]
    HungUp,
    /// The process was not started by a supervisor.
    #[error("onnxd-worker is started by onnxd, not by hand: {0}")]
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
    /// The supervisor said what it never says.
    #[error("the supervisor broke the protocol: {0}")]
    Protocol(String),
    /// The kernel refused something that is always possible.
    #[error("the system: {0}")]
    System(#[source] io::Error),
}

impl Fault {
    /// The exit code for this fault.
    pub(crate) fn status(&self) -> ExitStatus {
        match self {
            Self::HungUp => ExitStatus::Fine,
            Self::Inherited(_) => ExitStatus::Usage,
            fault if is_scarce(fault) => ExitStatus::Scarce,
            // Another start does not find another kernel.
            Self::Runtime(_) | Self::Sandbox(_) => ExitStatus::Configuration,
            Self::ControlPage(_) | Self::Protocol(_) | Self::System(_) => ExitStatus::Internal,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, UnexpectedEof};
        match error.kind() {
            // The supervisor may end in the middle of a frame, or without reading ours.
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
    fn a_shortage_is_one_wherever_it_was_met_and_what_is_wrong_stays_wrong() {
        let full = || io::Error::from_raw_os_error(Errno::EMFILE as i32);
        for fault in [
            Fault::from(full()),
            Fault::from(SandboxError::Io(full())),
            Fault::from(SandboxError::Process(Errno::ENOMEM)),
        ] {
            assert_eq!(fault.status(), ExitStatus::Scarce, "{fault}");
        }
        let denied = io::Error::from_raw_os_error(Errno::EACCES as i32);
        assert_eq!(Fault::from(SandboxError::Io(denied)).status(), ExitStatus::Configuration);
        assert_eq!(Fault::from(Errno::EIO).status(), ExitStatus::Internal);
        assert_eq!(Fault::HungUp.status(), ExitStatus::Fine);
    }
}
