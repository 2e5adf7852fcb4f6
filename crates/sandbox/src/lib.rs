//! Confines processes that read untrusted data: workers, checkers and listers, which run models, and
//! fetchers, which talk to other servers. Restricts priority, privileges, system calls ([`calls`]),
//! files ([`files`]), and limits memory, CPU time and disk. `main` calls this before a second thread
//! exists, so it applies to all threads. [`files::Files`] applies later, once the paths are known.

mod calls;
pub mod files;
pub mod scarcity;

use std::{fs, io};

use nix::sys::{
    prctl,
    signal::{SigSet, Signal},
};
use rustix::{
    fs::{FileType, fstat},
    process::{Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit},
    system::sysinfo,
};
use thiserror::Error;

/// Niceness added to work beside serving, so that it yields: it gets about a tenth of a busy CPU.
const NICENESS: i32 = 10;
/// The highest niceness.
const NICENESS_MAX: i32 = 19;
/// Memory of the process itself, and reserved but unused memory, on top of the limit of a check.
const MEMORY_SLACK: u64 = 256 << 20;
/// Maximum open descriptors. Files are closed once mapped, so few are open at a time.
const FILES_MAX: u64 = 1024;
/// Added to the OOM score, so that the kernel kills this process before the supervisor.
const OOM_SCORE: i32 = 500;
/// The highest OOM score.
const OOM_SCORE_MAX: i32 = 1000;

/// Resource limits of a process. `None` means unlimited.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Anonymous memory. `None` means the machine's memory.
    pub memory_bytes: Option<u64>,
    /// CPU time. The kernel kills the process with SIGXCPU.
    pub cpu_seconds: Option<u64>,
    /// The largest file it may write.
    pub file_bytes: Option<u64>,
}

/// What a process may do with sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Use those that it inherited.
    None,
    /// Also open connections to other machines, and ask for names and addresses.
    Outgoing,
}

/// Memory of a fetcher, for listings and buffers.
const FETCHING_MEMORY_BYTES: u64 = 512 << 20;
/// Memory of a lister: file names and parts of a model.
const LISTING_MEMORY_BYTES: u64 = 256 << 20;
/// A fetcher also keeps notes, and its log may be a file.
const FETCHING_FILE_BYTES_MIN: u64 = 64 << 20;
/// CPU time of a lister.
const LISTING_CPU_SECONDS: u64 = 20;

impl Limits {
    /// Returns the limits of a lister.
    pub fn listing() -> Self {
        Self {
            memory_bytes: Some(LISTING_MEMORY_BYTES),
            cpu_seconds: Some(LISTING_CPU_SECONDS),
            ..Self::serving()
        }
    }

    /// Returns the limits of a fetcher, which downloads at most `bytes`.
    pub fn fetching(bytes: u64) -> Self {
        Self {
            memory_bytes: Some(FETCHING_MEMORY_BYTES),
            file_bytes: Some(bytes.max(FETCHING_FILE_BYTES_MIN)),
            ..Self::default()
        }
    }

    /// Returns the limits of a worker, which writes only its log.
    pub fn serving() -> Self {
        // If the log is a file, the limit would apply to the log.
        let logs_to_file =
            fstat(io::stderr()).is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_file());
        Self { file_bytes: (!logs_to_file).then_some(0), ..Self::default() }
    }
}

/// Why a process could not be confined.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// Setting a limit or the priority failed.
    #[error("failed to set a resource limit: {0}")]
    Limit(#[from] rustix::io::Errno),
    /// Setting signals, or hiding the process from others, failed.
    #[error("failed to confine the process: {0}")]
    Process(#[from] nix::Error),
    /// Installing the filters failed.
    #[error(
        "the kernel cannot filter system calls ({0}); `onnxd serve --no-sandbox` runs without \
         confinement"
    )]
    Filter(#[from] seccompiler::Error),
    /// Building the filters failed.
    #[error("failed to build the system call filter: {0}")]
    Rules(#[from] seccompiler::BackendError),
    /// Installing the file rules failed.
    #[error(
        "the kernel cannot restrict files ({0}); `onnxd serve --no-sandbox` runs without \
         confinement"
    )]
    Files(#[from] landlock::RulesetError),
    /// Opening a path for a rule failed.
    #[error("failed to build the file rules: {0}")]
    Io(#[from] io::Error),
}

/// Lowers the priority of this process below serving.
pub fn yield_to_serving() {
    // Relative to the niceness at start. It cannot be lowered again without privileges.
    let present = getpriority_process(None).unwrap_or(0);
    if let Err(error) = setpriority_process(None, (present + NICENESS).min(NICENESS_MAX)) {
        tracing::warn!(%error, "failed to lower the priority; this process competes with serving");
    }
}

/// Has the kernel kill this process before the supervisor when memory runs out. Raising its own
/// score needs no privilege.
pub fn prefer_oom_kill() {
    const PATH: &str = "/proc/self/oom_score_adj";
    let present = fs::read_to_string(PATH).ok().and_then(|text| text.trim().parse().ok());
    let score = (present.unwrap_or(0) + OOM_SCORE).min(OOM_SCORE_MAX);
    if let Err(error) = fs::write(PATH, score.to_string()) {
        tracing::warn!(%error, "failed to raise the OOM score; the kernel may kill the supervisor first");
    }
}

/// Limits this process, even without a sandbox.
pub fn limit(limits: Limits) -> Result<(), SandboxError> {
    // A core file would contain an untrusted model and could take gigabytes of disk.
    lower(Resource::Core, Some(0), 0)?;
    lower(Resource::Nofile, Some(FILES_MAX), 0)?;
    // The kernel sends SIGXCPU at the soft limit and the less specific SIGKILL at the hard limit.
    lower(Resource::Cpu, limits.cpu_seconds, 1)?;
    // Do not limit the address space: weights mapped from files use it without using private
    // memory.
    let memory = limits.memory_bytes.map(|bytes| bytes.saturating_add(MEMORY_SLACK));
    lower(Resource::Data, Some(memory.unwrap_or_else(total_memory_bytes)), 0)?;
    // While the signal is blocked, write(2) fails instead. A compiled form that is too large is
    // dropped, and the candidate still passes.
    SigSet::from(Signal::SIGXFSZ).thread_block()?;
    lower(Resource::Fsize, limits.file_bytes, 0)
}

/// Gives up everything that no model needs. [`files::Files`] restricts files.
///
/// # Errors
/// The kernel does not support it.
pub fn enter() -> Result<(), SandboxError> {
    enter_with(Network::None)
}

/// Gives up everything that a process does not need which may use the network as stated.
///
/// # Errors
/// The kernel does not support it.
pub fn enter_with(network: Network) -> Result<(), SandboxError> {
    // Processes of the same user cannot attach or read memory, and no core is dumped.
    prctl::set_dumpable(false)?;
    prctl::set_no_new_privs()?;
    calls::deny(network)
}

/// Returns the machine's memory and swap. With this limit, an excessive allocation fails at once
/// instead of getting the process killed later.
fn total_memory_bytes() -> u64 {
    let found = sysinfo();
    let units = (found.totalram as u64).saturating_add(found.totalswap as u64);
    units.saturating_mul(found.mem_unit.into())
}

fn lower(resource: Resource, value: Option<u64>, margin: u64) -> Result<(), SandboxError> {
    let Some(current) = value else { return Ok(()) };
    // Only root may raise a hard limit.
    let hard_limit = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let maximum = current.saturating_add(margin).min(hard_limit);
    let current = current.min(hard_limit);
    Ok(setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })?)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
