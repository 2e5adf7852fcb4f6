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
    process::{self, Child, Command},
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
    time,
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

/// The process that takes over. Dropping it before it has ends it.
pub(super) struct Successor {
    child: Child,
    channel: UnixStream,
    has_taken: bool,
}

impl Successor {
    /// Passes a SIGHUP on.
    pub(super) fn hang_up(&self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // Nobody has waited for it, so that the pid is still its own.
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

    /// Ends it, for the reason that is returned.
    fn end(&mut self) -> String {
        // It has ended by itself where it had nothing more to say.
        let _ = self.child.kill();
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.has_taken {
            self.end();
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
            let mut attempt =
                pin!(time::timeout(config.succession_timeout, self.attempt(background)));
            loop {
                tokio::select! {
                    result = attempt.as_mut() => break result,
                    name = self.tasks.ended() => {
                        break Ok(Err(format!("a task ended unexpectedly: {name}")));
                    }
                    request = signals.next() => match request {
                        Request::Stop => return Attempt::Stopped,
                        Request::Reload => reload = true,
                        Request::Succeed => tracing::info!("a successor is starting already"),
                    }
                }
            }
        };
        let result = result.unwrap_or_else(|_| {
            Err(format!("it is not ready after {} s", config.succession_timeout.as_secs()))
        });
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
        admin::remove_successors(&config.admin_socket);
        self.updater.resume().await;
        Attempt::Failed { reload }
    }

    /// Starts a successor and waits until it is ready.
    async fn attempt(&self, background: &Background) -> Result<Successor, String> {
        tracing::info!("a successor is to take over: letting running updates finish");
        self.updater.hold().await;
        background.rest().await;
        let mut successor =
            self.start_successor().map_err(|error| format!("it could not be started: {error}"))?;
        let pid = successor.child.id();
        tracing::info!(pid, "a successor has started");
        if successor.hear().await != Some(READY) {
            return Err(format!("it ended, {}", successor.end()));
        }
        Ok(successor)
    }

    /// Has a successor that is ready serve. Updates are held meanwhile. An error: it has ended, and
    /// we serve on.
    async fn yield_to(&self, mut successor: Successor) -> Result<Successor, String> {
        let pid = successor.child.id();
        systemd::main_process_is(pid);
        successor.say(YOURS).await;
        match time::timeout(TAKEN_TIMEOUT, successor.hear()).await {
            Ok(None) => {
                // As far as it had come.
                systemd::main_process_is(process::id());
                self.store.sign();
                return Err(format!("it ended as it took over, {}", successor.end()));
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
        let child = command.spawn()?;
        // With it the command's end of the channel is closed, or we would never see its end.
        drop(command);
        Ok(Successor { child, channel: UnixStream::from_std(ours)?, has_taken: false })
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
        admin::take_name_over(&config.admin_socket).map_err(failed)?;
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
