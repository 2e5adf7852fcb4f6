//! The checker: a process of its own that tries a candidate, so that whatever a model file does
//! to ONNX Runtime, no worker and no supervisor suffers it. This file starts it, watches its
//! time and memory, and turns its end into a verdict; what is checked is the worker executable's
//! affair.

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

/// How often the checker's memory is looked at. A process that writes to new memory as fast as
/// it can gets a few dozen megabytes further in that time.
const MEMORY_TICK: Duration = Duration::from_millis(10);
/// Bytes of all lines that a checker prints.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// How long finding or making the compiled form may take at start.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(120);

/// Checkers at once, of all models: each may take as much memory as `--check-memory` allows.
const CHECKS_MAX: usize = 2;

/// What a check may use, and what it demands.
#[derive(Clone, Copy, Debug)]
pub struct CheckLimits {
    /// From start to verdict.
    pub timeout: Duration,
    /// Resident memory of the process.
    pub memory_bytes: u64,
    /// The smallest cosine to the serving generation's embeddings, where one is demanded.
    pub min_cosine: Option<f64>,
    /// Memory that each worker has for one text, where that is known.
    pub worker_bytes: Option<u64>,
    /// CPU time that one text may take: a longer one would meet the deadline of its request.
    pub text_time: Duration,
    /// Refuse what has to be guessed, and what would be served otherwise than its files say.
    pub strict: bool,
}

/// What a candidate must be, beside fit to serve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demands {
    /// Near what serves.
    pub nearness: bool,
    /// Without a guess.
    pub certainty: bool,
}

/// Starts checkers.
#[derive(Clone, Debug)]
pub struct Checker {
    executable: WorkerExecutable,
    starter: Starter,
    limits: CheckLimits,
    /// Room for as many as may run at once.
    turns: Arc<Semaphore>,
}

impl Checker {
    /// A checker with these limits for each candidate.
    ///
    /// # Errors
    /// No thread can be had.
    ///
    /// # Panics
    /// It is called outside of a runtime.
    pub fn new(
        executable: WorkerExecutable,
        limits: CheckLimits,
        tasks: &EssentialTasks,
    ) -> Result<Self, Failure> {
        let starter = Starter::begin(tasks.guard("checkers"))
            .map_err(|error| Failure::internal(format!("a thread for checkers: {error}")))?;
        Ok(Self { executable, starter, limits, turns: Arc::new(Semaphore::new(CHECKS_MAX)) })
    }

    /// Whether a candidate must be near what serves.
    pub fn demands_nearness(&self) -> bool {
        self.limits.min_cosine.is_some()
    }

    /// What a candidate must be.
    pub(super) fn demands(&self) -> Demands {
        Demands { nearness: self.demands_nearness(), certainty: self.limits.strict }
    }

    /// Tries the candidate in `folder` and leaves its compiled form in `compiled`. `serving` is
    /// where the compiled forms of the serving version are. `passed` hears of each part.
    ///
    /// # Errors
    /// Why it cannot serve. `Crash`, `Timeout` and `Memory` say that the checker itself ended.
    pub async fn check(
        &self,
        folder: &Path,
        compiled: &Path,
        serving: Option<&Path>,
        passed: impl FnMut(String),
    ) -> Result<Checked, Refusal> {
        let _turn = self.turns.acquire().await;
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
        let mut child = self.starter.start(command).await.map_err(|error| failed(&error))?;
        let deadline = Instant::now() + self.limits.timeout;
        let pid = child.id().unwrap_or(0);
        tokio::select! {
            verdict = verdict(&mut child, passed) => verdict,
            () = time::sleep_until(deadline) => {
                let message = format!("the check took longer than {} s", self.limits.timeout.as_secs());
                Err(RefusalKind::Timeout.because(message))
            }
            bytes = memory_above(pid, self.limits.memory_bytes) => {
                let (used, limit) = (bytes >> 20, self.limits.memory_bytes >> 20);
                let message = format!("the check used {used} MiB, {limit} MiB are allowed (--check-memory)");
                Err(RefusalKind::Memory.because(message))
            }
        }
    }

    /// Sees to it that the version in `folder` has a sound compiled form for this machine, as far
    /// as one can be made. Workers load the plain model otherwise.
    pub async fn compile(&self, folder: &Path, compiled: &Path) {
        let _turn = self.turns.acquire().await;
        let mut command = self.command("compile");
        command.arg("--version-dir").arg(folder).arg("--compiled-dir").arg(compiled);
        let output = async { self.starter.start(command).await?.wait_with_output().await };
        match time::timeout(COMPILE_TIMEOUT, output).await {
            Ok(Ok(output)) if output.status.success() => {
                let line = String::from_utf8_lossy(&output.stdout);
                tracing::info!(result = line.trim(), "compiled form");
            }
            Ok(Ok(output)) => tracing::warn!(status = %output.status, "no compiled form"),
            Ok(Err(error)) => tracing::warn!(%error, "no compiled form"),
            Err(_) => tracing::warn!("no compiled form: it took too long"),
        }
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::from(self.executable.command());
        command.arg(subcommand).arg("--onnxruntime").arg(self.executable.onnxruntime());
        // Dropping the child, whatever for, ends it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }
}

/// The thread that starts checkers. The kernel ends a checker with the thread that started it,
/// since that is what the checker asks for (`PR_SET_PDEATHSIG`, prctl(2)), and the runtime's threads
/// come and go.
#[derive(Clone, Debug)]
struct Starter(mpsc::SyncSender<Start>);

/// What is to be started, and who waits for it.
type Start = (Command, oneshot::Sender<io::Result<Child>>);

impl Starter {
    fn begin(guard: Guard) -> io::Result<Self> {
        let (orders, ordered) = mpsc::sync_channel::<Start>(CHECKS_MAX);
        let runtime = Handle::current();
        thread::Builder::new().name("checkers".into()).spawn(move || {
            let (_guard, _runtime) = (guard, runtime.enter());
            for (mut command, started) in ordered {
                // Who has given up drops the child, which ends it.
                let _ = started.send(command.spawn());
            }
        })?;
        Ok(Self(orders))
    }

    async fn start(&self, command: Command) -> io::Result<Child> {
        let (reply, started) = oneshot::channel();
        // There is room for as many as may run.
        self.0.try_send((command, reply)).map_err(io::Error::other)?;
        started.await.map_err(io::Error::other)?
    }
}

/// Reads the checker's lines to the last.
async fn verdict(child: &mut Child, mut passed: impl FnMut(String)) -> Result<Checked, Refusal> {
    let output = child.stdout.take().ok_or_else(|| failed(&"it has no output"))?;
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
    last.unwrap_or_else(|| Err(ended(status)))
}

/// What it means that the checker ended without a verdict.
fn ended(status: ExitStatus) -> Refusal {
    match status.signal() {
        // The kernel's own limit on CPU time, setrlimit(2).
        Some(nix::libc::SIGXCPU) => {
            RefusalKind::Timeout.because("the check used all the CPU time it may use")
        }
        Some(signal) => {
            RefusalKind::Crash.because(format!("the checker was ended by signal {signal}"))
        }
        None => {
            RefusalKind::Crash.because(format!("the checker ended without a verdict: {status}"))
        }
    }
}

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    RefusalKind::Internal.because(format!("the checker: {error}"))
}

/// Returns when a process uses more resident memory of its own than it may.
async fn memory_above(pid: u32, limit_bytes: u64) -> u64 {
    loop {
        time::sleep(MEMORY_TICK).await;
        match anonymous_bytes(pid) {
            Ok(bytes) if bytes > limit_bytes => return bytes,
            Ok(_) => {}
            // It has ended; its verdict is on its way.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Resident memory that is no file's, proc_pid_status(5).
fn anonymous_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes
        .map(|kilobytes: u64| kilobytes * 1024)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
