//! Exit codes, after `sysexits.h`. Both executables use this one table, so that the supervisor
//! can tell "wrong configuration, do not restart" from "crashed, restart".

/// How a process of onnxd ended, as its parent sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Everything went as asked.
    Fine = 0,
    /// The request was understood and refused; the reason has been printed.
    Refused = 1,
    /// The command line is wrong.
    Usage = 64,
    /// All workers failed for good.
    Unavailable = 69,
    /// A fault of onnxd's own.
    Internal = 70,
    /// The system has not enough processes, descriptors or memory now: a worker that ends so is
    /// started again as often as it takes.
    Scarce = 71,
    /// The configuration cannot work: a missing file, a library of the wrong kind, a locked
    /// state directory. Starting again changes nothing.
    Configuration = 78,
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

/// Why a command ended, and with which exit code: the one table from error to exit status.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub status: ExitStatus,
    /// What failed and what to do about it.
    pub message: String,
}

impl Failure {
    /// The configuration cannot work; the message says what to change.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Configuration, message: message.into() }
    }

    /// The request was understood and refused.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Refused, message: message.into() }
    }

    /// All workers failed for good.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Unavailable, message: message.into() }
    }

    /// A fault of our own or of the machine.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Internal, message: message.into() }
    }
}
