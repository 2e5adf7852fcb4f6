//! The orphan guard: however the supervisor exits, its workers exit within a second and remove the
//! admin socket that it left behind. Owns the process's signals and exit, on a dedicated thread
//! because the main thread may be in a long inference.
//!
//! The closing of the socket is decisive. The parent-death signal covers moments in which another
//! process still holds the other end, for example between a fork and its exec.

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{Pid, getppid},
};
use onnxd_proto::{exit::ExitStatus, wire::message::NamedSocket};
use onnxd_sandbox::files::Files;
use tracing::{Span, error, info, warn};

use crate::process::{fault::Fault, quit};

/// Maximum time between a killed supervisor closing its sockets and exiting.
const SUPERVISOR_EXIT_TIMEOUT: Duration = Duration::from_millis(500);
/// How often the guard polls for the supervisor's exit.
const SUPERVISOR_EXIT_POLL: Duration = Duration::from_millis(5);

/// Blocks signals that must not interrupt a worker: a terminal sends Ctrl-C to all foreground
/// processes, and only the supervisor handles reloads. The guard reads SIGTERM. Call it before a
/// second thread exists.
pub(crate) fn block_signals() -> nix::Result<()> {
    [Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGTERM]
        .into_iter()
        .collect::<SigSet>()
        .thread_block()
}

/// Has the kernel kill this process when its parent exits. For processes without a guard.
pub(crate) fn die_with_parent(parent: Pid) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        quit::now(ExitStatus::Success);
    }
    Ok(())
}

/// Watches the supervisor.
#[derive(Debug)]
pub(crate) struct Guard(Arc<Watch>);

#[derive(Debug)]
struct Watch {
    parent: Pid,
    supervisor: UnixStream,
    terminated: SignalFd,
    admin_socket: OnceLock<NamedSocket>,
}

impl Guard {
    /// Prepares to watch `parent`, the parent at process start, and the socket to it. SIGTERM must
    /// be blocked in all threads. Until [`Guard::watch`], the main thread reads the socket and
    /// notices when it closes.
    pub(crate) fn prepare(parent: Pid, supervisor: &UnixStream) -> Result<Self, Fault> {
        let sigterm = SigSet::from(Signal::SIGTERM);
        let watch = Arc::new(Watch {
            parent,
            supervisor: supervisor.try_clone()?,
            terminated: SignalFd::with_flags(&sigterm, SfdFlags::SFD_CLOEXEC)?,
            admin_socket: OnceLock::new(),
        });
        prctl::set_pdeathsig(Signal::SIGTERM)?;
        Ok(Self(watch))
    }

    /// Starts watching on a thread confined to `files`. If the supervisor cannot, the guard removes
    /// `admin_socket`.
    pub(crate) fn watch(&self, admin_socket: NamedSocket, files: Option<Files>) -> io::Result<()> {
        // There is one Welcome, so the cell is empty.
        let _ = self.0.admin_socket.set(admin_socket);
        let (watching, span) = (Arc::clone(&self.0), Span::current());
        thread::Builder::new().name("guard".into()).spawn(move || {
            let _span = span.entered();
            if let Err(error) = files.map_or(Ok(()), Files::enter) {
                let fault = Fault::from(error);
                error!(%fault, "worker stopped");
                quit::now(fault.status());
            }
            watching.wait();
            watching.end()
        })?;
        Ok(())
    }

    /// Ends the process after the supervisor closed the socket. For the main thread.
    pub(crate) fn end(&self) -> ! {
        self.0.end()
    }
}

impl Watch {
    /// Returns when the socket has closed, the supervisor has exited, or SIGTERM has arrived.
    fn wait(&self) {
        // A parent that exited before the parent-death signal was requested sends none.
        while !self.is_orphaned() {
            // With no events requested, poll(2) reports only hang-ups, so requests do not wake this
            // thread.
            let mut watched = [
                PollFd::new(self.supervisor.as_fd(), PollFlags::empty()),
                PollFd::new(self.terminated.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut watched, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    }

    fn end(&self) -> ! {
        if let Some(socket) = self.admin_socket.get()
            && is_same_socket(socket)
            && self.is_supervisor_gone()
            // A successor may have taken over the path in the meantime.
            && is_same_socket(socket)
        {
            match fs::remove_file(&socket.path) {
                Ok(()) => info!(path = %socket.path.display(), "admin socket removed"),
                // Another worker removed it first.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    warn!(path = %socket.path.display(), %error, "failed to remove admin socket")
                }
            }
        }
        quit::now(ExitStatus::Success)
    }

    /// Returns whether the supervisor exits within [`SUPERVISOR_EXIT_TIMEOUT`]. A closed socket
    /// does not prove it: the supervisor may stop only this worker, and a killed one closes its
    /// sockets before it exits. Nor does SIGTERM: it is sent when the thread that started us ends,
    /// while another thread of the supervisor can briefly become our parent.
    fn is_supervisor_gone(&self) -> bool {
        let start = Instant::now();
        while !self.is_orphaned() && start.elapsed() < SUPERVISOR_EXIT_TIMEOUT {
            thread::sleep(SUPERVISOR_EXIT_POLL);
        }
        self.is_orphaned()
    }

    fn is_orphaned(&self) -> bool {
        getppid() != self.parent
    }
}

/// Returns whether the path is still the supervisor's own socket and not a successor's.
fn is_same_socket(socket: &NamedSocket) -> bool {
    fs::symlink_metadata(&socket.path)
        .is_ok_and(|found| (found.dev(), found.ino()) == (socket.device, socket.inode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn successors_socket_at_the_same_path_is_recognized() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let ours = UnixListener::bind(&path).unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        let socket = NamedSocket { path: path.clone(), device: found.dev(), inode: found.ino() };
        assert!(is_same_socket(&socket));
        fs::remove_file(&path).unwrap();
        assert!(!is_same_socket(&socket));
        // Keep the old socket open, so that its inode number is not reused.
        let _theirs = UnixListener::bind(&path).unwrap();
        assert!(!is_same_socket(&socket));
        drop(ours);
    }
}
