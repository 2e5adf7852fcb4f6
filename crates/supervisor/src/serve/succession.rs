//! Replaces the server's executable while it serves. The predecessor executes its own path again and passes the
//! listening sockets and the lock of the state directory. It exits once the successor serves. This file has both
//! sides, for [`crate::serve`].
//!
//! ```text
//!  predecessor                                  successor
//!  pauses updates, starts it ── descriptors ──► restores, starts workers, warms up
//!                           ◄────── ready ────
//!  (systemd: MAINPID)       ─────── yours ───►  takes the admin socket's name and the lock, accepts
//!                           ◄────── taken ────
//!  drains, exits            ──── end of file ─► updates again
//! ```
//!
//! Each message is one byte, which is all that two builds must agree on. Until `yours`, the predecessor can continue
//! as if nothing had happened. If it is killed, the successor serves as soon as it is ready.

use std::{
    env,
    ffi::OsString,
    future, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    pin::pin,
    process::{self, Command, ExitStatus},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Child,
    time::{self, Instant},
};

use super::Server;
use crate::{
    admin,
    config::Config,
    process::{
        inherited::{FIRST, FIRST_PROCESS, HANDOVER, LOCK, SUCCESSION},
        signals::{Action, Signals},
        systemd,
    },
};
use onnxd_engine::models::update::background::Background;
use onnxd_proto::exit::Failure;

const READY: u8 = b'r';
const YOURS: u8 = b'y';
const TAKEN: u8 = b't';
/// How long a successor may take from `yours` to `taken`. This process drains in any case.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a successor that failed may take to report the reason and exit.
const EXIT_GRACE: Duration = Duration::from_secs(1);
/// How long to wait for a killed successor to exit. One that waits for a disk cannot exit yet, and is reaped later.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// Variables from systemd or a predecessor that are meant for this process only.
const PRIVATE_VARIABLES: [&str; 5] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", SUCCESSION];

/// The result of an attempt to hand over.
pub(super) enum Attempt {
    /// The successor serves. This process must drain.
    HandedOver(Successor),
    /// This process continues to serve. `reload` is set if a SIGHUP arrived during the attempt.
    Failed { reload: bool },
    /// A signal stopped this process during the attempt.
    Stopped,
}

/// The process that takes over. Dropping this before it has taken over kills it. Nothing here may block: the runtime
/// has one thread, which also serves requests.
pub(super) struct Successor {
    pid: u32,
    child: Box<Child>,
    channel: UnixStream,
    has_taken: bool,
}

impl Successor {
    /// Forwards a SIGHUP.
    pub(super) fn hang_up(&self) {
        // After it is reaped, it has no id, and its pid may belong to another process.
        if let Some(Ok(pid)) = self.child.id().map(i32::try_from) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGHUP);
        }
    }

    async fn receive(&mut self) -> Option<u8> {
        self.channel.read_u8().await.ok()
    }

    async fn send(&mut self, message: u8) {
        // Ignore the error: the next receive shows that the process exited.
        let _ = self.channel.write_u8(message).await;
    }

    /// Describes the exit of a process that has closed its channel. Gives it time to say why.
    async fn failed(&mut self) -> String {
        match time::timeout(EXIT_GRACE, self.child.wait()).await {
            Ok(exit) => describe_exit(future::ready(exit)).await,
            Err(_) => self.kill().await,
        }
    }

    /// Kills the process and describes its exit.
    async fn kill(&mut self) -> String {
        // An error means that it has exited already.
        let _ = self.child.start_kill();
        describe_exit(self.child.wait()).await
    }
}

/// Describes the exit of a killed process, or that it has not exited in time.
async fn describe_exit(exit: impl Future<Output = io::Result<ExitStatus>>) -> String {
    match time::timeout(KILL_TIMEOUT, exit).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("still running {} s after SIGKILL", KILL_TIMEOUT.as_secs()),
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.has_taken {
            // Tokio reaps it after it exits.
            let _ = self.child.start_kill();
        }
    }
}

impl Server {
    /// Starts a successor and hands over to it.
    pub(super) async fn hand_over(
        &self,
        config: &Config,
        background: &Background,
        signals: &mut Signals,
    ) -> Attempt {
        let mut reload = false;
        let result = {
            let mut attempt = pin!(self.prepare_successor(config.succession_timeout, background));
            loop {
                tokio::select! {
                    result = attempt.as_mut() => break result,
                    name = self.tasks.ended() => {
                        // The caller stops the server for this. Updates stay paused, since the successor may still
                        // be running.
                        tracing::error!(task = name, "succession failed, a task ended unexpectedly");
                        self.forget_successor(config);
                        return Attempt::Failed { reload: false };
                    }
                    request = signals.next() => match request {
                        Action::Stop => {
                            self.forget_successor(config);
                            return Attempt::Stopped;
                        }
                        Action::Reload => reload = true,
                        Action::HandOver => tracing::info!("a successor is already starting"),
                    }
                }
            }
        };
        // From here on, neither the timeout nor a signal may interrupt: two processes might serve, or none.
        let result = match result {
            Ok(successor) => self.transfer_to(successor).await,
            Err(reason) => Err(reason),
        };
        let reason = match result {
            Ok(successor) => {
                if reload {
                    successor.hang_up();
                }
                return Attempt::HandedOver(successor);
            }
            Err(reason) => reason,
        };
        tracing::error!(reason, "succession failed, this process continues to serve");
        self.forget_successor(config);
        self.updater.resume().await;
        Attempt::Failed { reload }
    }

    /// Cleans up after a successor that failed or is killed. It cannot remove its socket.
    fn forget_successor(&self, config: &Config) {
        admin::remove_successor_socket(&config.admin_socket);
        self.report(None);
    }

    /// Reports to the first process of a container that this process serves.
    fn report(&self, successor: Option<u32>) {
        let Some(Err(error)) = self.reporter.as_ref().map(|first| first.report(successor)) else {
            return;
        };
        tracing::error!(%error, "cannot report to the first process of the container");
    }

    /// Starts a successor and waits until it is ready. On an error it has been killed, so that two processes never
    /// write the same state.
    async fn prepare_successor(
        &self,
        timeout: Duration,
        background: &Background,
    ) -> Result<Successor, String> {
        let deadline = Instant::now() + timeout;
        let late = || format!("the successor was not ready within {} s", timeout.as_secs());
        tracing::info!("preparing succession, waiting for running updates");
        let idle = async {
            self.updater.pause().await;
            background.wait_until_idle().await;
        };
        time::timeout_at(deadline, idle).await.map_err(|_| late())?;
        let mut successor = self
            .start_successor()
            .map_err(|error| format!("cannot start the successor: {error}"))?;
        tracing::info!(pid = successor.pid, "successor started");
        match time::timeout_at(deadline, successor.receive()).await {
            Ok(Some(READY)) => Ok(successor),
            Ok(_) => Err(format!("the successor failed: {}", successor.failed().await)),
            Err(_) => {
                successor.kill().await;
                Err(late())
            }
        }
    }

    /// Lets a successor that is ready serve, with updates paused.
    ///
    /// # Errors
    /// The successor has exited, and this process continues to serve.
    async fn transfer_to(&self, mut successor: Successor) -> Result<Successor, String> {
        let pid = successor.pid;
        systemd::main_process_is(pid);
        successor.send(YOURS).await;
        match time::timeout(TAKEN_TIMEOUT, successor.receive()).await {
            Ok(None) => {
                // Undo what the successor may have done before it exited.
                systemd::main_process_is(process::id());
                self.store.write_pid();
                return Err(format!(
                    "the successor failed while taking over: {}",
                    successor.failed().await
                ));
            }
            Ok(Some(TAKEN)) => tracing::info!(pid, "successor took over"),
            _ => tracing::error!(pid, "successor did not confirm that it serves, draining anyway"),
        }
        successor.has_taken = true;
        self.updater.hand_over().await;
        Ok(successor)
    }

    fn start_successor(&self) -> io::Result<Successor> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut passed: Vec<(&str, OwnedFd)> = Vec::new();
        for (name, descriptor) in &self.successor_descriptors {
            passed.push((name, descriptor.try_clone()?));
        }
        passed.push((LOCK, self.store.lock_for_successor()?.into()));
        passed.push((HANDOVER, theirs.into()));
        if let Some(reporter) = &self.reporter {
            passed.push((FIRST_PROCESS, reporter.as_fd().try_clone_to_owned()?));
        }
        let names: Vec<&str> = passed.iter().map(|(name, _)| *name).collect();
        let mut arguments = env::args_os();
        // The path this process was started from. An upgrade has replaced the file there.
        let executable = arguments.next().unwrap_or_else(|| OsString::from("onnxd"));
        let mut command = Command::new(&executable);
        command.args(arguments);
        for name in PRIVATE_VARIABLES {
            command.env_remove(name);
        }
        command.env(SUCCESSION, names.join(":"));
        let mappings = passed.into_iter().zip(FIRST..);
        let mapping = |((_, parent_fd), child_fd)| FdMapping { parent_fd, child_fd };
        command.fd_mappings(mappings.map(mapping).collect()).map_err(io::Error::other)?;
        let mut command = tokio::process::Command::from(command);
        // Before the spawn: a successor without a channel would consider this process dead, and serve.
        let channel = UnixStream::from_std(ours)?;
        let child = command.spawn().map_err(|error| {
            let path = executable.display();
            io::Error::new(error.kind(), format!("{path}: {error}"))
        })?;
        let child = Box::new(child);
        // Closes our copy of the successor's end. Otherwise its exit would not close the channel.
        drop(command);
        // A child that was not waited for has an id.
        let pid = child.id().unwrap_or_default();
        let successor = Successor { pid, child, channel, has_taken: false };
        if let Some(reporter) = &self.reporter {
            // Without this, the container would end with this process. Dropping the successor kills it.
            reporter.report(Some(pid))?;
        }
        Ok(successor)
    }

    /// The successor's side. Returns when this process serves.
    ///
    /// # Errors
    /// The channel or the admin socket fails.
    pub(super) async fn take_over(
        &self,
        config: &Config,
        channel: StdStream,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| {
            Failure::internal(format!("cannot take over from the predecessor: {error}"))
        };
        channel.set_nonblocking(true).map_err(failed)?;
        let mut channel = UnixStream::from_std(channel).map_err(failed)?;
        // Paused until the predecessor has exited: until then it may answer with its own
        // generations.
        self.updater.pause().await;
        // Ignore the error: the next read shows that the predecessor exited.
        let _ = channel.write_u8(READY).await;
        if !matches!(channel.read_u8().await, Ok(YOURS)) {
            tracing::warn!("predecessor exited before it handed over, taking over");
        }
        if !self.admin_is_passed {
            admin::take_over_name(&config.admin_socket).map_err(failed)?;
        }
        self.store.write_pid();
        self.report(None);
        self.open.send_replace(true);
        let _ = channel.write_u8(TAKEN).await;
        let (updater, collections) =
            (std::sync::Arc::clone(&self.updater), self.collections.clone());
        let guard = self.tasks.guard("succession");
        tokio::spawn(async move {
            let _guard = guard;
            // The predecessor sends nothing more: this returns when it exits.
            let _ = channel.read_u8().await;
            if let Some(collections) = collections {
                collections.await_predecessor(false);
            }
            updater.resume().await;
            tracing::info!("predecessor exited");
        });
        Ok(())
    }
}

#[cfg(test)]
#[path = "succession_tests.rs"]
mod tests;
