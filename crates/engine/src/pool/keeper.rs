//! One thread for each worker. It starts the process and waits for its end, over and over: the
//! kernel ties a child's parent-death signal to the *thread* that started it, so that thread has
//! to live as long as the child.

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

use crate::pool::{Epoch, WorkerId, ended::Ended, executable::WorkerExecutable};

/// The descriptor of the socket in the worker.
const SOCKET_FD: i32 = 3;
/// The descriptor of the control page in the worker.
const CONTROL_PAGE_FD: i32 = 4;
/// The descriptor of the pipe that names groups to be terminated in the worker.
const TERMINATIONS_FD: i32 = 5;

/// A process that has been started.
#[derive(Debug)]
pub struct Started {
    /// Its number in the system.
    pub pid: u32,
    /// For signals that cannot hit another process.
    pidfd: Arc<OwnedFd>,
    /// Read by a thread of the worker that nothing holds up.
    terminations: PipeWriter,
}

impl Started {
    /// Ends the process at once, also if it is stopped.
    pub fn kill(&self) {
        // It may have ended by itself, which is as good.
        let _ = pidfd_send_signal(&*self.pidfd, Signal::KILL);
    }

    /// Tells the process to end what it computes for this group, even in the middle of a run.
    pub fn terminate(&self, group: u64) {
        // The pipe is full only if the worker does not read it; it is killed after a grace period.
        let _ = (&self.terminations).write_all(&group.to_le_bytes());
    }
}

/// What a keeper reports.
#[derive(Debug)]
pub enum Report {
    /// The process runs; our end of its socket.
    Started(Started, UnixStream),
    /// The process was stopped (`SIGSTOP`).
    Stopped,
    /// The process goes on after it was stopped.
    Continued,
    /// The process has ended, or could not be started.
    Ended(Ended),
}

/// A handle to the thread.
#[derive(Debug)]
pub struct Keeper {
    orders: mpsc::SyncSender<(Epoch, OwnedFd)>,
}

impl Keeper {
    /// Starts the thread; the process is started by [`Keeper::start`].
    ///
    /// # Errors
    /// No thread can be had.
    pub fn spawn<E: Send + 'static>(
        worker: WorkerId,
        cpu: u16,
        executable: WorkerExecutable,
        events: Sender<E>,
        event: impl Fn(WorkerId, Epoch, Report) -> E + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, incoming) = mpsc::sync_channel::<(Epoch, OwnedFd)>(1);
        thread::Builder::new().name(format!("keeper-{worker}")).spawn(move || {
            // The loop ends when the handle or the receiver of the reports is dropped.
            for (epoch, control_page) in incoming {
                let report = |report| events.blocking_send(event(worker, epoch, report)).is_ok();
                let ended = match start(&executable, worker, cpu, control_page) {
                    Ok((started, socket)) => {
                        // Even if the receiver was dropped: the child ends as its socket does.
                        let pidfd = Arc::clone(&started.pidfd);
                        report(Report::Started(started, socket));
                        wait(&pidfd, report)
                    }
                    Err(error) => Ended::not_started(&error),
                };
                report(Report::Ended(ended));
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts the process; the one before must have ended.
    pub fn start(&self, epoch: Epoch, control_page: OwnedFd) {
        let sent = self.orders.try_send((epoch, control_page));
        debug_assert!(sent.is_ok(), "a worker is started once at a time");
    }
}

/// Waits for the end of the process, and reports when it is stopped or continued.
fn wait(pidfd: &OwnedFd, report: impl Fn(Report) -> bool) -> Ended {
    let changes = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED;
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), changes) {
            Ok(Some(status)) if status.stopped() => report(Report::Stopped),
            Ok(Some(status)) if status.continued() => report(Report::Continued),
            Ok(Some(status)) => return Ended::from(&status),
            Ok(None) | Err(Errno::INTR) => continue,
            Err(error) => return Ended::unknown(error.to_string()),
        };
    }
}

fn start(
    executable: &WorkerExecutable,
    worker: WorkerId,
    cpu: u16,
    control_page: OwnedFd,
) -> io::Result<(Started, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let (orders, terminations) = io::pipe()?;
    ioctl_fionbio(&terminations, true)?;
    let mut command = executable.command();
    command.arg("serve").args(["--worker", &worker.to_string(), "--cpu", &cpu.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
        .fd_mappings(vec![
            FdMapping { parent_fd: theirs.into(), child_fd: SOCKET_FD },
            FdMapping { parent_fd: control_page, child_fd: CONTROL_PAGE_FD },
            FdMapping { parent_fd: orders.into(), child_fd: TERMINATIONS_FD },
        ])
        .map_err(io::Error::other)?;
    let mut child = command.spawn()?;
    let pid = child.id();
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    let pidfd = match pidfd_open(raw, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            // Its end could not be waited for: there are never two processes of one worker.
            child.kill()?;
            child.wait()?;
            return Err(error.into());
        }
    };
    Ok((Started { pid, pidfd: Arc::new(pidfd), terminations }, ours))
}
