//! The orphan guard: whatever way the supervisor ends, its workers are gone within a second, and
//! the admin socket that it could not remove any more is gone, too. Owns the process's signals
//! and its end, in a thread of its own, because the main thread may be in a long inference.
//!
//! The end of the socket is what counts. The parent-death signal is there for the moments in
//! which another process still holds the other end, as between a fork and its exec.

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
use tracing::{Span, error, info, warn};

use crate::{
    process::{fault::Fault, quit},
    sandbox::files::Files,
};

/// How long a supervisor that is being killed may take from closing its sockets to being gone.
const PARTING: Duration = Duration::from_millis(500);
/// How often a guard looks whether it is gone.
const PARTING_TICK: Duration = Duration::from_millis(5);

/// Blocks the signals that must not end a worker in the middle of an answer: a terminal sends
/// Ctrl-C to all processes of the foreground, and a reload is the supervisor's business. SIGTERM
/// is read by the guard instead. Called before there is a second thread.
pub(crate) fn block_signals() -> nix::Result<()> {
    [Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGTERM]
        .into_iter()
        .collect::<SigSet>()
        .thread_block()
}

/// Lets the kernel kill this process when its parent ends. For processes without a guard.
pub(crate) fn die_with(parent: Pid) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        quit::now(ExitStatus::Fine);
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
    /// Gets ready to watch `parent`, the parent as it was when this process began, and the socket
    /// to it. SIGTERM must be blocked in all threads. Until [`Guard::watch_over`] the main thread
    /// waits for what the socket brings, and sees its end itself.
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

    /// Starts to watch, in a thread that may open no more than `files`, and tells it what to
    /// remove if the supervisor cannot.
    pub(crate) fn watch_over(
        &self,
        admin_socket: NamedSocket,
        files: Option<Files>,
    ) -> io::Result<()> {
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

    /// Ends the process after the supervisor closed the socket, in the main thread's stead.
    pub(crate) fn end(&self) -> ! {
        self.0.end()
    }
}

impl Watch {
    /// Returns when the socket has ended, the supervisor is gone, or SIGTERM has come.
    fn wait(&self) {
        // A parent that ended before the parent-death signal was asked for sends none.
        while !self.orphaned() {
            // Without an event asked for, poll(2) reports the end alone, so that requests do not
            // wake this thread.
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
            && is_there(socket)
            && self.is_supervisor_gone()
            // A successor may have taken the name over meanwhile.
            && is_there(socket)
        {
            match fs::remove_file(&socket.path) {
                Ok(()) => info!(path = %socket.path.display(), "admin socket removed"),
                // Another worker was faster.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => warn!(path = %socket.path.display(), %error, "admin socket remains"),
            }
        }
        quit::now(ExitStatus::Fine)
    }

    /// The socket ends also when the supervisor stops this one worker and goes on, and a
    /// supervisor that is killed closes it shortly before it is gone. SIGTERM does not tell
    /// either: it is sent when the thread ends that started us, while another of the same process
    /// may still be there for a moment and count as our parent.
    fn is_supervisor_gone(&self) -> bool {
        let begin = Instant::now();
        while !self.orphaned() && begin.elapsed() < PARTING {
            thread::sleep(PARTING_TICK);
        }
        self.orphaned()
    }

    fn orphaned(&self) -> bool {
        getppid() != self.parent
    }
}

/// Whether the path still is the very socket that the supervisor made, and not a successor's.
fn is_there(socket: &NamedSocket) -> bool {
    fs::symlink_metadata(&socket.path)
        .is_ok_and(|found| (found.dev(), found.ino()) == (socket.device, socket.inode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_successors_socket_of_the_same_path_is_not_taken_for_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let ours = UnixListener::bind(&path).unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        let socket = NamedSocket { path: path.clone(), device: found.dev(), inode: found.ino() };
        assert!(is_there(&socket));
        fs::remove_file(&path).unwrap();
        assert!(!is_there(&socket));
        // The old one is kept open, so that its inode number is not given away again.
        let _theirs = UnixListener::bind(&path).unwrap();
        assert!(!is_there(&socket));
        drop(ours);
    }
}
