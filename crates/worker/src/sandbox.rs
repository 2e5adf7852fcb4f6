//! What a checker takes from itself before it touches a candidate: priority, the network, and
//! more memory, CPU time and disk than a check may need. The supervisor watches from outside,
//! too; this holds when it does not get the time.

use std::env::consts::ARCH;

use nix::{
    libc::{self, c_long},
    sys::signal::{SigSet, Signal},
};
use rustix::process::{
    Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use thiserror::Error;

/// How much a check yields to serving.
const NICENESS: i32 = 10;
/// There is no more.
const NICENESS_MAX: i32 = 19;
/// Address space of the process itself and of what is reserved but not used, on top of what a
/// check may use.
const MEMORY_SLACK: u64 = 256 << 20;

/// What a check may use at most. `None` is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Memory that is no file's.
    pub(crate) memory_bytes: Option<u64>,
    /// CPU time; the kernel ends the process with SIGXCPU.
    pub(crate) cpu_seconds: Option<u64>,
    /// The largest file that is written.
    pub(crate) file_bytes: Option<u64>,
}

/// Why a checker does not begin.
#[derive(Debug, Error)]
pub(crate) enum SandboxError {
    /// Limits and priority.
    #[error("a limit cannot be set: {0}")]
    Limit(#[from] rustix::io::Errno),
    /// Signals.
    #[error("a signal cannot be blocked: {0}")]
    Signal(#[from] nix::Error),
    /// The filter.
    #[error("the network cannot be denied: {0}")]
    Filter(#[from] seccompiler::Error),
    /// The filter's parts.
    #[error("the network cannot be denied: {0}")]
    Rules(#[from] seccompiler::BackendError),
}

/// Lets serving go first. Called, like all of this, before there is a second thread.
pub(crate) fn yield_to_serving() {
    // Beside whatever this process was started with; nobody may lower it again.
    let present = getpriority_process(None).unwrap_or(0);
    if let Err(error) = setpriority_process(None, (present + NICENESS).min(NICENESS_MAX)) {
        tracing::warn!(%error, "the check competes with serving");
    }
}

/// Limits this process.
pub(crate) fn enter(limits: Limits) -> Result<(), SandboxError> {
    // A core file would hold a stranger's model, and take the disk space of a gigabyte.
    limit(Resource::Core, Some(0), 0)?;
    // At the first limit the kernel sends SIGXCPU, at the second SIGKILL, which says less.
    limit(Resource::Cpu, limits.cpu_seconds, 1)?;
    limit(Resource::Data, limits.memory_bytes.map(|bytes| bytes.saturating_add(MEMORY_SLACK)), 0)?;
    // Blocked, the signal becomes an error of write(2): a compiled form that is too large is
    // none, and the candidate is fine.
    SigSet::from(Signal::SIGXFSZ).thread_block()?;
    limit(Resource::Fsize, limits.file_bytes, 0)?;
    Ok(seccompiler::apply_filter_all_threads(&no_network()?)?)
}

fn limit(resource: Resource, value: Option<u64>, margin: u64) -> Result<(), SandboxError> {
    let Some(current) = value else { return Ok(()) };
    // Only root may raise what this process was given.
    let given = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let maximum = current.saturating_add(margin).min(given);
    let current = current.min(given);
    Ok(setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })?)
}

/// Sockets are of this machine only. `io_uring` opens them past the filter, so there is none.
fn no_network() -> Result<BpfProgram, SandboxError> {
    let not_unix = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Ne,
        u64::from(libc::AF_UNIX.unsigned_abs()),
    )?;
    let rules: [(c_long, Vec<SeccompRule>); 2] = [
        (libc::SYS_socket, vec![SeccompRule::new(vec![not_unix])?]),
        (libc::SYS_io_uring_setup, Vec::new()),
    ];
    let denied = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    let filter = SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::Allow,
        denied,
        ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        net::{TcpListener, UdpSocket},
        os::unix::net::UnixStream,
        thread,
    };

    use super::*;

    #[test]
    fn behind_the_filter_only_local_sockets_can_be_made() {
        let filter = no_network().unwrap();
        // The filter cannot be taken off; here it concerns this one thread.
        thread::spawn(move || {
            UdpSocket::bind("127.0.0.1:0").unwrap();
            seccompiler::apply_filter(&filter).unwrap();
            let denied = UdpSocket::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
            let denied = TcpListener::bind("[::1]:0").unwrap_err();
            assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
            UnixStream::pair().unwrap();
        })
        .join()
        .unwrap();
    }
}
