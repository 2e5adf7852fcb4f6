//! One thread for each worker. It starts the process and waits for its end, over and over: the
//! kernel ties a child's parent-death signal to the *thread* that started it, so that thread has
//! to live as long as the child.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::{ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::mpsc::Sender;

use super::{Epoch, WorkerId, executable::WorkerExecutable};

/// The descriptor of the socket in the worker.
const SOCKET_FD: i32 = 3;
/// The descriptor of the control page in the worker.
const CONTROL_PAGE_FD: i32 = 4;

/// A process that has been started.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its number in the system.
    pub pid: u32,
    /// For signals that cannot hit another process.
    pidfd: OwnedFd,
}

impl Started {
    /// Ends the process at once, also if it is stopped.
    pub(crate) fn kill(&self) {
        // It may have ended by itself, which is as good.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

/// What a keeper reports.
#[derive(Debug)]
pub(crate) enum Report {
    /// The process runs; our end of its socket.
    Started(Started, UnixStream),
    /// The process has ended, or could not be started.
    Ended(Ended),
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The exit code, where there is one.
    pub code: Option<i32>,
    /// The signal that ended it, where one did.
    pub signal: Option<i32>,
    /// For logs.
    pub reason: String,
}

impl Ended {
    /// It did not run at all, or nobody can tell how it ended.
    pub(crate) fn unknown(reason: String) -> Self {
        Self { code: None, signal: None, reason }
    }

    /// Whether somebody else ended it: no process raises this signal by a fault of its own.
    pub(crate) fn was_killed(&self) -> bool {
        self.signal == Some(Signal::KILL.as_raw())
    }
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal(), reason: status.to_string() }
    }
}

/// A handle to the thread.
#[derive(Debug)]
pub(crate) struct Keeper {
    orders: mpsc::SyncSender<(Epoch, OwnedFd)>,
}

impl Keeper {
    /// Starts the thread; the process is started by [`Keeper::start`].
    ///
    /// # Errors
    /// No thread can be had.
    pub(crate) fn spawn<E: Send + 'static>(
        worker: WorkerId,
        cpu: u16,
        executable: WorkerExecutable,
        events: Sender<E>,
        event: impl Fn(WorkerId, Epoch, Report) -> E + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, incoming) = mpsc::sync_channel::<(Epoch, OwnedFd)>(1);
        thread::Builder::new().name(format!("keeper-{worker}")).spawn(move || {
            // The loop ends when the handle is dropped, or when nobody hears the reports.
            for (epoch, control_page) in incoming {
                let report = |report| events.blocking_send(event(worker, epoch, report)).is_ok();
                let ended = match start(&executable, worker, cpu, control_page) {
                    Ok((mut child, started, socket)) => {
                        // Also when nobody listens any more: the child ends as its socket does.
                        report(Report::Started(started, socket));
                        let unknown = |error: io::Error| Ended::unknown(error.to_string());
                        child.wait().map_or_else(unknown, Ended::from)
                    }
                    Err(error) => Ended::unknown(format!("not started: {error}")),
                };
                report(Report::Ended(ended));
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts the process; the one before must have ended.
    pub(crate) fn start(&self, epoch: Epoch, control_page: OwnedFd) {
        let sent = self.orders.try_send((epoch, control_page));
        debug_assert!(sent.is_ok(), "a worker is started once at a time");
    }
}

fn start(
    executable: &WorkerExecutable,
    worker: WorkerId,
    cpu: u16,
    control_page: OwnedFd,
) -> io::Result<(std::process::Child, Started, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = executable.command();
    command.arg("serve").args(["--worker", &worker.to_string(), "--cpu", &cpu.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
        .fd_mappings(vec![
            FdMapping { parent_fd: theirs.into(), child_fd: SOCKET_FD },
            FdMapping { parent_fd: control_page, child_fd: CONTROL_PAGE_FD },
        ])
        .map_err(io::Error::other)?;
    let child = command.spawn()?;
    let pid = child.id();
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
    Ok((child, Started { pid, pidfd }, ours))
}
