//! What a process that runs a stranger's model takes from itself, be it a worker or a checker:
//! priority, privileges, system calls ([`calls`]), files ([`files`]), and more memory, CPU time and
//! disk than it may need. `main` calls this before there is a second thread, so that it holds for
//! all of them; what is known of files only later is said by [`files::Files`].

pub(crate) mod calls;
pub(crate) mod files;
pub(crate) mod scarcity;

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

/// How much a check yields to serving.
const NICENESS: i32 = 10;
/// There is no more.
const NICENESS_MAX: i32 = 19;
/// Address space of the process itself and of what is reserved but not used, on top of what a
/// check may use.
const MEMORY_SLACK: u64 = 256 << 20;
/// Descriptors of a process: files are closed once they are mapped, so that few are open at once.
const FILES_MAX: u64 = 1024;
/// How much rather than the supervisor the kernel ends this process when memory runs out.
const OOM_SCORE: i32 = 500;
/// There is no more.
const OOM_SCORE_MAX: i32 = 1000;

/// What a process may use at most. `None` is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Memory that is no file's; without it, what the machine has.
    pub(crate) memory_bytes: Option<u64>,
    /// CPU time; the kernel ends the process with SIGXCPU.
    pub(crate) cpu_seconds: Option<u64>,
    /// The largest file that is written.
    pub(crate) file_bytes: Option<u64>,
}

/// Memory of a process that lists a source: names of files and parts of a model.
const LISTING_MEMORY_BYTES: u64 = 256 << 20;
/// CPU time of such a process.
const LISTING_CPU_SECONDS: u64 = 20;

impl Limits {
    /// Of a process that lists a source.
    pub(crate) fn listing() -> Self {
        Self {
            memory_bytes: Some(LISTING_MEMORY_BYTES),
            cpu_seconds: Some(LISTING_CPU_SECONDS),
            ..Self::serving()
        }
    }

    /// Of a worker, which writes nothing but its log.
    pub(crate) fn serving() -> Self {
        // Where the log is a file, the limit would be that of the log.
        let logs_to_file =
            fstat(io::stderr()).is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_file());
        Self { file_bytes: (!logs_to_file).then_some(0), ..Self::default() }
    }
}

/// Why a process does not begin to run models.
#[derive(Debug, Error)]
pub(crate) enum SandboxError {
    /// Limits and priority.
    #[error("a limit cannot be set: {0}")]
    Limit(#[from] rustix::io::Errno),
    /// Signals, or what the kernel lets others see of this process.
    #[error("the process cannot be confined: {0}")]
    Process(#[from] nix::Error),
    /// The filters.
    #[error(
        "the kernel does not filter system calls ({0}); `onnxd serve --no-sandbox` does without \
         confinement"
    )]
    Filter(#[from] seccompiler::Error),
    /// The filters' parts.
    #[error("the filter of system calls: {0}")]
    Rules(#[from] seccompiler::BackendError),
    /// What is said of files.
    #[error(
        "the kernel does not restrict files ({0}); `onnxd serve --no-sandbox` does without \
         confinement"
    )]
    Files(#[from] landlock::RulesetError),
    /// A descriptor of a rule.
    #[error("the rules for files: {0}")]
    Io(#[from] io::Error),
}

/// Lets serving go first. Called, like all of this, before there is a second thread.
pub(crate) fn yield_to_serving() {
    // Beside whatever this process was started with; nobody may lower it again.
    let present = getpriority_process(None).unwrap_or(0);
    if let Err(error) = setpriority_process(None, (present + NICENESS).min(NICENESS_MAX)) {
        tracing::warn!(%error, "the check competes with serving");
    }
}

/// When memory runs out, the supervisor is to be the last to go. Nobody needs a privilege to offer
/// himself.
pub(crate) fn offer_to_be_ended_first() {
    const PATH: &str = "/proc/self/oom_score_adj";
    let present = fs::read_to_string(PATH).ok().and_then(|text| text.trim().parse().ok());
    let score = (present.unwrap_or(0) + OOM_SCORE).min(OOM_SCORE_MAX);
    if let Err(error) = fs::write(PATH, score.to_string()) {
        tracing::warn!(%error, "the kernel may end the supervisor before this process");
    }
}

/// Limits this process; these hold without a sandbox, too.
pub(crate) fn limit(limits: Limits) -> Result<(), SandboxError> {
    // A core file would hold a stranger's model, and take the disk space of a gigabyte.
    lower(Resource::Core, Some(0), 0)?;
    lower(Resource::Nofile, Some(FILES_MAX), 0)?;
    // At the first limit the kernel sends SIGXCPU, at the second SIGKILL, which says less.
    lower(Resource::Cpu, limits.cpu_seconds, 1)?;
    // Not the address space: weights that are mapped from files take of that, and of no memory
    // that others do not use, too.
    let memory = limits.memory_bytes.map(|bytes| bytes.saturating_add(MEMORY_SLACK));
    lower(Resource::Data, Some(memory.unwrap_or_else(machines_bytes)), 0)?;
    // Blocked, the signal becomes an error of write(2): a compiled form that is too large is
    // none, and the candidate is fine.
    SigSet::from(Signal::SIGXFSZ).thread_block()?;
    lower(Resource::Fsize, limits.file_bytes, 0)
}

/// Takes from this process what no model needs. Files are left to [`files::Files`].
pub(crate) fn enter() -> Result<(), SandboxError> {
    // Nobody of the same user attaches to it or reads its memory, and no core is written of it.
    prctl::set_dumpable(false)?;
    prctl::set_no_new_privs()?;
    calls::deny()
}

/// Nobody can use more than there is; who tries is told so, and not ended later.
fn machines_bytes() -> u64 {
    let found = sysinfo();
    let units = (found.totalram as u64).saturating_add(found.totalswap as u64);
    units.saturating_mul(found.mem_unit.into())
}

fn lower(resource: Resource, value: Option<u64>, margin: u64) -> Result<(), SandboxError> {
    let Some(current) = value else { return Ok(()) };
    // Only root may raise what this process was given.
    let given = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let maximum = current.saturating_add(margin).min(given);
    let current = current.min(given);
    Ok(setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })?)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
