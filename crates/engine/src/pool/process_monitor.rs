//! Runs one thread per worker that spawns the process and waits for it to exit. The thread must
//! outlive the child: the kernel ties the parent-death signal to the thread that forked it.

use std::{
    io::{self, PipeWriter, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Stdio,
    sync::{Arc, mpsc},
    thread,
};

use command_fds::{CommandFdExt, FdMapping};
use rustix::{
    io::{Errno, ioctl_fionbio},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
    },
};
use tokio::sync::mpsc::Sender;

use crate::pool::{
    Epoch, WorkerId, executable::WorkerExecutable, oom::OomKills, process_exit::ProcessExit,
};

/// The socket's descriptor in the worker.
const SOCKET_FD: i32 = 3;
/// The control page's descriptor in the worker.
const CONTROL_PAGE_FD: i32 = 4;
/// The descriptor in the worker of the pipe that carries the ids of groups to terminate.
const TERMINATIONS_FD: i32 = 5;

/// A running process.
#[derive(Debug)]
pub struct RunningProcess {
    /// The process id.
    pub pid: u32,
    /// Signals the process without racing against PID reuse.
    pidfd: Arc<OwnedFd>,
    /// Read by a worker thread that never blocks.
    terminations: PipeWriter,
}

impl RunningProcess {
    /// Kills the process immediately, even if it is stopped.
    pub fn kill(&self) {
        // Ignore the error: the process has already exited.
        let _ = pidfd_send_signal(&*self.pidfd, Signal::KILL);
    }

    /// Tells the process to abort this group, even in the middle of a run.
    pub fn terminate(&self, group: u64) {
        // The pipe fills up only if the worker does not read it; it is then killed after a grace
        // period.
        let _ = (&self.terminations).write_all(&group.to_le_bytes());
    }
}

/// A process monitor's report.
#[derive(Debug)]
pub enum Report {
    /// The process is running; carries our end of its socket.
    Started(RunningProcess, UnixStream),
    /// The process was stopped (`SIGSTOP`).
    Stopped,
    /// The process continued after a stop.
    Continued,
    /// The process exited or could not be started.
    Exited(ProcessExit),
}

/// A handle to the thread. Dropping it ends the thread once the process has exited.
#[derive(Debug)]
pub struct ProcessMonitor {
    starts: mpsc::SyncSender<(Epoch, OwnedFd)>,
}

impl ProcessMonitor {
    /// Starts the thread. [`ProcessMonitor::start`] starts the process.
    ///
    /// # Errors
    /// The thread could not be spawned.
    pub fn spawn<E: Send + 'static>(
        worker: WorkerId,
        cpu: u16,
        (executable, oom_kills): (WorkerExecutable, OomKills),
        events: Sender<E>,
        event: impl Fn(WorkerId, Epoch, Report) -> E + Send + 'static,
    ) -> io::Result<Self> {
        let (starts, incoming) = mpsc::sync_channel::<(Epoch, OwnedFd)>(1);
        thread::Builder::new().name(format!("monitor-{worker}")).spawn(move || {
            // The loop ends when the handle or the receiver of the reports is dropped.
            for (epoch, control_page) in incoming {
                let report = |report| events.blocking_send(event(worker, epoch, report)).is_ok();
                let exit = match start(&executable, worker, cpu, control_page) {
                    Ok((started, socket)) => {
                        // Wait even if the receiver was dropped: closing the socket makes the child
                        // exit.
                        let pidfd = Arc::clone(&started.pidfd);
                        report(Report::Started(started, socket));
                        oom_kills.explain(wait(&pidfd, report))
                    }
                    Err(error) => ProcessExit::not_started(&error),
                };
                report(Report::Exited(exit));
            }
        })?;
        Ok(Self { starts })
    }

    /// Starts the process. The previous one must have exited.
    pub fn start(&self, epoch: Epoch, control_page: OwnedFd) {
        let sent = self.starts.try_send((epoch, control_page));
        debug_assert!(sent.is_ok(), "at most one start is pending");
    }
}

/// Waits for the process to exit, and reports when it is stopped or continued.
fn wait(pidfd: &OwnedFd, report: impl Fn(Report) -> bool) -> ProcessExit {
    let changes = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED;
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), changes) {
            Ok(Some(status)) if status.stopped() => report(Report::Stopped),
            Ok(Some(status)) if status.continued() => report(Report::Continued),
            Ok(Some(status)) => return ProcessExit::from(&status),
            Ok(None) | Err(Errno::INTR) => continue,
            Err(error) => return ProcessExit::unknown(error.to_string()),
        };
    }
}

fn start(
    executable: &WorkerExecutable,
    worker: WorkerId,
    cpu: u16,
    control_page: OwnedFd,
) -> io::Result<(RunningProcess, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (read_end, terminations) = io::pipe()?;
    ioctl_fionbio(&terminations, true)?;
    let mut command = executable.command();
    command.arg("serve").args(["--worker", &worker.to_string(), "--cpu", &cpu.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
        .fd_mappings(vec![
            FdMapping { parent_fd: theirs.into(), child_fd: SOCKET_FD },
            FdMapping { parent_fd: control_page, child_fd: CONTROL_PAGE_FD },
            FdMapping { parent_fd: read_end.into(), child_fd: TERMINATIONS_FD },
        ])
        .map_err(io::Error::other)?;
    let mut child = command.spawn()?;
    let pid = child.id();
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            // Without a pidfd its exit cannot be awaited, and a worker must never have two
            // processes.
            child.kill()?;
            child.wait()?;
            return Err(error.into());
        }
    };
    Ok((RunningProcess { pid, pidfd: Arc::new(pidfd), terminations }, ours))
}
