//! A successor takes over: the executable is started anew with the listening sockets and the lock
//! of the state directory, and this process ends when it serves. Both sides of it.
//!
//! ```text
//!  predecessor                                  successor
//!  holds updates, starts it ─── descriptors ──► restores, starts workers, warms up
//!                           ◄────── ready ────
//!  (systemd: MAINPID)       ─────── yours ───►  takes the admin socket's name and the lock, accepts
//!                           ◄────── taken ────
//!  drains, ends             ──── end of file ─► updates again
//! ```
//!
//! A byte each is all that two builds have to agree on. Until `yours` the predecessor may go on as if
//! nothing had been; if it is killed the successor serves as soon as it is ready.

use std::{
    env,
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
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
        inherited::{FIRST, HANDOVER, LOCK, SUCCESSION},
        signals::{Request, Signals},
        systemd,
    },
};
use onnxd_engine::models::update::background::Background;
use onnxd_proto::exit::Failure;

const READY: u8 = b'r';
const YOURS: u8 = b'y';
const TAKEN: u8 = b't';
/// How long a successor that was given everything may take to say so. We drain in any case.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of a successor that was killed is waited for. One that the kernel cannot end
/// yet, since it waits for a disk, is reaped when it ends.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// What systemd and a predecessor told this process alone.
const OURS_ALONE: [&str; 5] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", SUCCESSION];

/// How an attempt went.
pub(super) enum Attempt {
    /// It serves: we are to drain.
    Taken(Successor),
    /// We go on, and reload if that was asked for meanwhile.
    Failed { reload: bool },
    /// We were told to stop meanwhile.
    Stopped,
}

/// The process that takes over. Dropping it before it has kills it. Nothing here blocks: the
/// runtime has one thread, and requests are served by it meanwhile.
pub(super) struct Successor {
    pid: u32,
    child: Box<Child>,
    channel: UnixStream,
    has_taken: bool,
}

impl Successor {
    /// Passes a SIGHUP on.
    pub(super) fn hang_up(&self) {
        // It has no id once it has been reaped, when another process may have its pid.
        if let Some(Ok(pid)) = self.child.id().map(i32::try_from) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGHUP);
        }
    }

    async fn hear(&mut self) -> Option<u8> {
        self.channel.read_u8().await.ok()
    }

    async fn say(&mut self, word: u8) {
        // Whether it is still there is seen when we listen.
        let _ = self.channel.write_u8(word).await;
    }

    /// Kills it, and returns how it ended.
    async fn end(&mut self) -> String {
        // An error means that it has ended already.
        let _ = self.child.start_kill();
        ending(self.child.wait()).await
    }
}

/// How a process that was killed ended, or that it has not yet.
async fn ending(end: impl Future<Output = io::Result<ExitStatus>>) -> String {
    match time::timeout(ENDS_WITHIN, end).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "killed, but not ended yet".to_owned(),
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.has_taken {
            // Tokio reaps it when it ends.
            let _ = self.child.start_kill();
        }
    }
}

impl Server {
    /// Has a successor take over.
    pub(super) async fn succeed(
        &self,
        config: &Config,
        background: &Background,
        signals: &mut Signals,
    ) -> Attempt {
        let mut reload = false;
        let result = {
            let mut attempt = pin!(self.attempt(config.succession_timeout, background));
            loop {
                tokio::select! {
                    result = attempt.as_mut() => break result,
                    name = self.tasks.ended() => {
                        // The caller ends the server for it. Updates stay held, since the successor
                        // may not have ended yet.
                        tracing::error!(task = name, "no successor takes over: a task ended unexpectedly");
                        admin::remove_successor_socket(&config.admin_socket);
                        return Attempt::Failed { reload: false };
                    }
                    request = signals.next() => match request {
                        Request::Stop => {
                            // What it has bound it cannot remove when it is killed.
                            admin::remove_successor_socket(&config.admin_socket);
                            return Attempt::Stopped;
                        }
                        Request::Reload => reload = true,
                        Request::Succeed => tracing::info!("a successor is starting already"),
                    }
                }
            }
        };
        // Neither its time nor a signal ends what follows: two might serve, or nobody.
        let result = match result {
            Ok(successor) => self.yield_to(successor).await,
            Err(reason) => Err(reason),
        };
        let reason = match result {
            Ok(successor) => {
                if reload {
                    successor.hang_up();
                }
                return Attempt::Taken(successor);
            }
            Err(reason) => reason,
        };
        tracing::error!(reason, "no successor takes over: this process goes on");
        admin::remove_successor_socket(&config.admin_socket);
        self.updater.resume().await;
        Attempt::Failed { reload }
    }

    /// Starts a successor and waits until it is ready. If it is not in time it has been ended when
    /// this returns, so that two processes never write the same state.
    async fn attempt(
        &self,
        timeout: Duration,
        background: &Background,
    ) -> Result<Successor, String> {
        let deadline = Instant::now() + timeout;
        let late = || format!("it is not ready after {} s", timeout.as_secs());
        tracing::info!("a successor is to take over: letting running updates finish");
        let idle = async {
            self.updater.hold().await;
            background.rest().await;
        };
        time::timeout_at(deadline, idle).await.map_err(|_| late())?;
        let mut successor =
            self.start_successor().map_err(|error| format!("it could not be started: {error}"))?;
        tracing::info!(pid = successor.pid, "a successor has started");
        match time::timeout_at(deadline, successor.hear()).await {
            Ok(Some(READY)) => Ok(successor),
            Ok(_) => Err(format!("it ended, {}", successor.end().await)),
            Err(_) => {
                successor.end().await;
                Err(late())
            }
        }
    }

    /// Has a successor that is ready serve. Updates are held meanwhile. An error: it has ended, and
    /// we serve on.
    async fn yield_to(&self, mut successor: Successor) -> Result<Successor, String> {
        let pid = successor.pid;
        systemd::main_process_is(pid);
        successor.say(YOURS).await;
        match time::timeout(TAKEN_TIMEOUT, successor.hear()).await {
            Ok(None) => {
                // As far as it had come.
                systemd::main_process_is(process::id());
                self.store.sign();
                return Err(format!("it ended as it took over, {}", successor.end().await));
            }
            Ok(Some(TAKEN)) => tracing::info!(pid, "the successor serves"),
            _ => tracing::error!(pid, "the successor does not say that it serves"),
        }
        successor.has_taken = true;
        self.updater.hand_over().await;
        Ok(successor)
    }

    fn start_successor(&self) -> io::Result<Successor> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut passed: Vec<(&str, OwnedFd)> = Vec::new();
        for (name, descriptor) in &self.for_a_successor {
            passed.push((name, descriptor.try_clone()?));
        }
        passed.push((LOCK, self.store.lock_for_a_successor()?.into()));
        passed.push((HANDOVER, theirs.into()));
        let names: Vec<&str> = passed.iter().map(|(name, _)| *name).collect();
        let mut arguments = env::args_os();
        // The file that is at this path now, and not the one that we were started from.
        let executable = arguments.next().unwrap_or_else(|| OsString::from("onnxd"));
        let mut command = Command::new(executable);
        command.args(arguments);
        for name in OURS_ALONE {
            command.env_remove(name);
        }
        command.env(SUCCESSION, names.join(":"));
        let mappings = passed.into_iter().zip(FIRST..);
        let mapping = |((_, parent_fd), child_fd)| FdMapping { parent_fd, child_fd };
        command.fd_mappings(mappings.map(mapping).collect()).map_err(io::Error::other)?;
        let mut command = tokio::process::Command::from(command);
        // Before the start: a successor that we cannot talk to would take us for dead, and serve.
        let channel = UnixStream::from_std(ours)?;
        let child = Box::new(command.spawn()?);
        // With it the command's end of the channel is closed, or we would never see its end.
        drop(command);
        // Nobody has waited for it, so it has one.
        let pid = child.id().unwrap_or_default();
        Ok(Successor { pid, child, channel, has_taken: false })
    }

    /// The successor's side: returns when this process is the server.
    pub(super) async fn take_over(
        &self,
        config: &Config,
        channel: StdStream,
    ) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::internal(format!("the succession: {error}"));
        channel.set_nonblocking(true).map_err(failed)?;
        let mut channel = UnixStream::from_std(channel).map_err(failed)?;
        // Until nobody is answered by what the predecessor serves.
        self.updater.hold().await;
        // A predecessor that is gone needs no answer, and gives none.
        let _ = channel.write_u8(READY).await;
        if !matches!(channel.read_u8().await, Ok(YOURS)) {
            tracing::warn!("the predecessor has ended before the succession");
        }
        admin::take_over_name(&config.admin_socket).map_err(failed)?;
        self.store.sign();
        self.open.send_replace(true);
        let _ = channel.write_u8(TAKEN).await;
        let updater = std::sync::Arc::clone(&self.updater);
        let guard = self.tasks.guard("succession");
        tokio::spawn(async move {
            let _guard = guard;
            // It says nothing more; this is its end.
            let _ = channel.read_u8().await;
            updater.resume().await;
            tracing::info!("the predecessor has ended");
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{future, os::unix::process::ExitStatusExt};

    use super::*;

    /// A successor that says nothing and does not end by itself.
    fn silent() -> Successor {
        let (ours, _) = StdStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let child = tokio::process::Command::new("sleep").arg("600").spawn().unwrap();
        let child = Box::new(child);
        let pid = child.id().unwrap();
        Successor { pid, child, channel: UnixStream::from_std(ours).unwrap(), has_taken: false }
    }

    fn runs(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test(start_paused = true)]
    async fn process_that_cannot_end_is_not_waited_for() {
        let begin = Instant::now();
        assert_eq!(ending(future::pending()).await, "killed, but not ended yet");
        assert_eq!(begin.elapsed(), ENDS_WITHIN);
        let killed = ExitStatus::from_raw(9);
        assert!(ending(future::ready(Ok(killed))).await.contains("signal: 9"));
    }

    #[tokio::test]
    async fn ending_a_successor_kills_and_reaps_it() {
        let mut successor = silent();
        let ended = successor.end().await;
        assert!(ended.contains("signal: 9"), "{ended}");
        assert!(successor.child.id().is_none() && !runs(successor.pid));
    }

    #[tokio::test]
    async fn dropped_successor_is_killed_and_reaped_later() {
        let successor = silent();
        let pid = successor.pid;
        drop(successor);
        let gone = async {
            while runs(pid) {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(Duration::from_secs(10), gone).await.expect("it is reaped");
    }

    #[tokio::test]
    async fn successor_that_has_taken_over_outlives_its_handle() {
        let mut successor = silent();
        let pid = successor.pid;
        successor.has_taken = true;
        drop(successor);
        time::sleep(Duration::from_millis(50)).await;
        assert!(runs(pid));
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    }
}
