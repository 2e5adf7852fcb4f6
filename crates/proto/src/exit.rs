//! Exit codes, following `sysexits.h`. All executables use this table, so the supervisor can tell
//! a configuration error (do not restart) from a crash (restart).

/// Exit status of an onnxd process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Success.
    Success = 0,
    /// The request was understood and refused; the reason was printed.
    Refused = 1,
    /// A newer update or an unload replaced this update.
    Superseded = 3,
    /// Invalid command line.
    Usage = 64,
    /// All workers failed permanently.
    Unavailable = 69,
    /// An internal error in onnxd.
    Internal = 70,
    /// The system is temporarily out of processes, descriptors or memory. A worker that exits with
    /// this status is restarted without limit.
    Exhausted = 71,
    /// The configuration cannot work: a missing file, an unsuitable library, a locked state
    /// directory. Restarting does not help.
    Configuration = 78,
    /// A signal ended a command whose call goes on at the server. 128 + SIGINT, as in a shell.
    Interrupted = 130,
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

/// A command's error: the exit status and the message to print.
#[derive(Debug)]
pub struct Failure {
    pub status: ExitStatus,
    /// The error and its remedy.
    pub message: String,
}

impl Failure {
    /// Creates a configuration error; the message says what to change.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Configuration, message: message.into() }
    }

    /// Creates an error for a request that was understood and refused.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Refused, message: message.into() }
    }

    /// Creates an error for workers that failed permanently.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Unavailable, message: message.into() }
    }

    /// Creates an error for a fault in onnxd or the machine.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Internal, message: message.into() }
    }
}
