//! Starts checkers: short-lived processes that try a candidate, so that a bad model file can harm
//! neither workers nor the supervisor. Limits their time and memory and turns their exit into a
//! verdict. The checks themselves are in the worker executable.

use std::{
    fs, io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use onnxd_proto::domain::{CheckLine, Checked, Refusal, RefusalKind};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    runtime::Handle,
    sync::{Semaphore, oneshot},
    time::{self, Instant},
};

use crate::{
    pool::executable::WorkerExecutable,
    tasks::{EssentialTasks, Guard},
};
use onnxd_proto::exit::Failure;

/// Interval between memory checks. Meanwhile a process can exceed the limit by a few dozen megabytes
/// at most.
const MEMORY_TICK: Duration = Duration::from_millis(10);
/// Maximum bytes of a checker's output.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// Time limit for finding or building a compiled form at start.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(120);

/// Maximum concurrent checkers of all models, since each may use all of `--check-memory`.
const CHECKS_MAX: usize = 2;

/// The limits and requirements of a check.
#[derive(Clone, Copy, Debug)]
pub struct CheckLimits {
    /// Time from start to verdict.
    pub timeout: Duration,
    /// Resident memory of the process.
    pub memory_bytes: u64,
    /// The minimum cosine to the serving generation's embeddings, if required.
    pub min_cosine: Option<f64>,
    /// Memory that each worker has for one text, if known.
    pub worker_bytes: Option<u64>,
    /// CPU time that one text may take without missing the deadline of its request.
    pub text_time: Duration,
    /// Refuses models with guessed settings, and models that would be served differently than their files say.
    pub strict: bool,
}

/// Optional requirements on a candidate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Requirements {
    /// Embeddings must be close to those of the serving version.
    pub min_cosine: bool,
    /// No setting may be guessed.
    pub strict: bool,
}

/// Starts checkers.
#[derive(Clone, Debug)]
pub struct Checker {
    executable: WorkerExecutable,
    spawner: Spawner,
    limits: CheckLimits,
    /// One permit for each checker that may run concurrently.
    permits: Arc<Semaphore>,
}

impl Checker {
    /// Returns a checker with these limits for each candidate.
    ///
    /// # Errors
    /// The thread that starts checkers cannot be started.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new(
        executable: WorkerExecutable,
        limits: CheckLimits,
        tasks: &EssentialTasks,
    ) -> Result<Self, Failure> {
        let spawner = Spawner::start(tasks.guard("checkers")).map_err(|error| {
            Failure::internal(format!("failed to start the checker thread: {error}"))
        })?;
        Ok(Self { executable, spawner, limits, permits: Arc::new(Semaphore::new(CHECKS_MAX)) })
    }

    /// Returns whether embeddings must be close to those of the serving version.
    pub fn has_min_cosine(&self) -> bool {
        self.limits.min_cosine.is_some()
    }

    /// Returns the optional requirements on a candidate.
    pub(super) fn requirements(&self) -> Requirements {
        Requirements { min_cosine: self.has_min_cosine(), strict: self.limits.strict }
    }

    /// Tries the candidate in `folder` and leaves its compiled form in `compiled`. `serving` is the
    /// folder with the compiled forms of the serving version. `passed` is called for each part.
    ///
    /// # Errors
    /// Why the candidate cannot serve. `Crash`, `Timeout` and `Memory` mean that the checker itself
    /// crashed or exceeded a limit.
    pub async fn check(
        &self,
        folder: &Path,
        compiled: &Path,
        serving: Option<&Path>,
        passed: impl FnMut(String),
    ) -> Result<Checked, Refusal> {
        let _permit = self.permits.acquire().await;
        let mut command = self.command("check");
        command.arg("--version-dir").arg(folder).arg("--compiled-dir").arg(compiled);
        command.args(["--memory-limit-bytes", &self.limits.memory_bytes.to_string()]);
        command.args(["--cpu-limit-seconds", &self.limits.timeout.as_secs().max(1).to_string()]);
        command.args(["--text-limit-millis", &self.limits.text_time.as_millis().to_string()]);
        if let Some(bytes) = self.limits.worker_bytes {
            command.args(["--worker-limit-bytes", &bytes.to_string()]);
        }
        if self.limits.strict {
            command.arg("--strict");
        }
        if let Some(serving) = serving {
            command.arg("--serving-compiled-dir").arg(serving);
            if let Some(min_cosine) = self.limits.min_cosine {
                command.args(["--min-cosine", &min_cosine.to_string()]);
            }
        }
        let mut child = self.spawner.spawn(command).await.map_err(|error| failed(&error))?;
        let deadline = Instant::now() + self.limits.timeout;
        let pid = child.id().unwrap_or(0);
        tokio::select! {
            verdict = verdict(&mut child, passed) => verdict,
            () = time::sleep_until(deadline) => {
                let message = format!("the check took longer than {} s (--check-timeout)", self.limits.timeout.as_secs());
                Err(RefusalKind::Timeout.because(message))
            }
            bytes = memory_above(pid, self.limits.memory_bytes) => {
                let (used, limit) = (bytes >> 20, self.limits.memory_bytes >> 20);
                let message = format!("the check used {used} MiB of memory; the limit is {limit} MiB (--check-memory)");
                Err(RefusalKind::Memory.because(message))
            }
        }
    }

    /// Finds or builds a valid compiled form of the version in `folder` for this machine. If that
    /// fails, workers load the plain model.
    ///
    /// # Errors
    /// The version's files differ from its manifest. It must not serve.
    pub async fn compile(&self, folder: &Path, compiled: &Path) -> Result<(), Refusal> {
        let _permit = self.permits.acquire().await;
        let mut command = self.command("compile");
        command.arg("--version-dir").arg(folder).arg("--compiled-dir").arg(compiled);
        let output = async { self.spawner.spawn(command).await?.wait_with_output().await };
        match time::timeout(COMPILE_TIMEOUT, output).await {
            Ok(Ok(output)) if output.status.success() => {
                let line = String::from_utf8_lossy(&output.stdout);
                if let Ok(CompileLine { refused }) = serde_json::from_str(&line) {
                    return Err(refused);
                }
                tracing::info!(result = line.trim(), "compiled form ready");
            }
            Ok(Ok(output)) => {
                tracing::warn!(status = %output.status, "compiling failed; workers load the plain model")
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "compiling failed; workers load the plain model")
            }
            Err(_) => tracing::warn!("compiling timed out; workers load the plain model"),
        }
        Ok(())
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::from(self.executable.command());
        command.arg(subcommand).arg("--onnxruntime").arg(self.executable.onnxruntime());
        // Dropping the child for any reason kills it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }
}

/// The output of `onnxd-worker compile` about a version that must not serve.
#[derive(Deserialize)]
struct CompileLine {
    refused: Refusal,
}

/// Spawns checkers on a dedicated thread. Checkers set `PR_SET_PDEATHSIG` (prctl(2)), so the kernel
/// kills them when the thread that spawned them exits, and the runtime's threads come and go.
#[derive(Clone, Debug)]
struct Spawner(mpsc::SyncSender<SpawnRequest>);

/// The command to spawn, and the channel for the result.
type SpawnRequest = (Command, oneshot::Sender<io::Result<Child>>);

impl Spawner {
    fn start(guard: Guard) -> io::Result<Self> {
        let (sender, requests) = mpsc::sync_channel::<SpawnRequest>(CHECKS_MAX);
        let runtime = Handle::current();
        thread::Builder::new().name("checkers".into()).spawn(move || {
            let (_guard, _runtime) = (guard, runtime.enter());
            for (mut command, reply) in requests {
                // If the receiver was dropped, the child is dropped here, which kills it.
                let _ = reply.send(command.spawn());
            }
        })?;
        Ok(Self(sender))
    }

    async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, started) = oneshot::channel();
        // The channel has room for every checker that may run.
        self.0.try_send((command, reply)).map_err(io::Error::other)?;
        started.await.map_err(io::Error::other)?
    }
}

/// Reads all lines of the checker and returns its verdict.
async fn verdict(child: &mut Child, mut passed: impl FnMut(String)) -> Result<Checked, Refusal> {
    let output = child.stdout.take().ok_or_else(|| failed(&"stdout is not captured"))?;
    let mut lines = BufReader::new(output.take(OUTPUT_BYTES_MAX)).lines();
    let mut last = None;
    while let Some(line) = lines.next_line().await.map_err(|error| failed(&error))? {
        match serde_json::from_str(&line) {
            Ok(CheckLine::Passed(part)) => passed(part),
            Ok(CheckLine::Accepted(checked)) => last = Some(Ok(*checked)),
            Ok(CheckLine::Refused(refusal)) => last = Some(Err(refusal)),
            Err(_) => {}
        }
    }
    let status = child.wait().await.map_err(|error| failed(&error))?;
    last.unwrap_or_else(|| Err(refusal_of_exit(status)))
}

/// Returns the refusal for a checker that exited without a verdict.
fn refusal_of_exit(status: ExitStatus) -> Refusal {
    match status.signal() {
        // The kernel's limit on CPU time, setrlimit(2).
        Some(nix::libc::SIGXCPU) => {
            RefusalKind::Timeout.because("the check exceeded its CPU time limit (--check-timeout)")
        }
        Some(signal) => {
            RefusalKind::Crash.because(format!("the checker was killed by signal {signal}"))
        }
        None => {
            RefusalKind::Crash.because(format!("the checker exited without a verdict: {status}"))
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    RefusalKind::Internal.because(format!("running the checker failed: {error}"))
}

/// Waits until a process's private resident memory exceeds the limit, then returns its size.
async fn memory_above(pid: u32, limit_bytes: u64) -> u64 {
    loop {
        time::sleep(MEMORY_TICK).await;
        match anonymous_bytes(pid) {
            Ok(bytes) if bytes > limit_bytes => return bytes,
            Ok(_) => {}
            // The process has exited; `verdict` returns soon.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Reads a process's resident anonymous memory; see proc_pid_status(5).
fn anonymous_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes
        .map(|kilobytes: u64| kilobytes * 1024)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
