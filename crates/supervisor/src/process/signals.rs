//! Receives signals for [`crate::serve`], which acts on them: SIGHUP reloads, SIGUSR2 starts a successor, SIGTERM
//! and SIGINT drain.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{self, SignalKind};

/// Blocks SIGHUP and SIGUSR2 until [`Signals::install`], since their default action would terminate the process, and
/// no other signal: the parent may block some.
pub(crate) fn block() {
    // Cannot fail: the mask is valid.
    let _ = blocked().thread_set_mask();
}

fn blocked() -> SigSet {
    [Signal::SIGHUP, Signal::SIGUSR2].into_iter().collect()
}

/// Handlers of the supervisor's signals.
#[derive(Debug)]
pub(crate) struct Signals {
    hangup: unix::Signal,
    user2: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    /// Installs the handlers and unblocks the signals.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub(crate) fn install() -> io::Result<Self> {
        let signals = Self {
            hangup: unix::signal(SignalKind::hangup())?,
            user2: unix::signal(SignalKind::user_defined2())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        };
        blocked().thread_unblock()?;
        Ok(signals)
    }

    /// Waits for SIGTERM or SIGINT.
    pub(crate) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the next signal. Several of a kind that arrive before this call count as one.
    pub(crate) async fn next(&mut self) -> Action {
        tokio::select! {
            _ = self.hangup.recv() => Action::Reload,
            _ = self.user2.recv() => Action::HandOver,
            _ = self.terminate.recv() => Action::Stop,
            _ = self.interrupt.recv() => Action::Stop,
        }
    }
}

/// The action that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Reload keys and certificates, and update every model from its source.
    Reload,
    /// Start a successor, and exit once it serves.
    HandOver,
    /// Finish accepted requests, then exit.
    Stop,
}
