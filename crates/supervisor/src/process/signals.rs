//! Signals of the supervisor: SIGHUP reloads, SIGUSR2 has a successor take over, SIGTERM and
//! SIGINT drain, a second one ends at once. Nothing here acts on a signal; [`crate::serve`] does.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{self, SignalKind};

/// Blocks SIGHUP and SIGUSR2 until [`Signals::install`], since their default action would end the
/// process.
pub(crate) fn block_signals() {
    // Blocking a valid signal for the calling thread cannot fail.
    let _ = blocked_signals().thread_block();
}

fn blocked_signals() -> SigSet {
    [Signal::SIGHUP, Signal::SIGUSR2].into_iter().collect()
}

/// The signals that the supervisor waits for.
#[derive(Debug)]
pub(crate) struct Signals {
    hangup: unix::Signal,
    succeed: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    /// Takes over the signals; one that was held back is delivered now.
    ///
    /// # Errors
    /// The kernel or the runtime refuses a handler.
    pub(crate) fn install() -> io::Result<Self> {
        let signals = Self {
            hangup: unix::signal(SignalKind::hangup())?,
            succeed: unix::signal(SignalKind::user_defined2())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        };
        blocked_signals().thread_unblock()?;
        Ok(signals)
    }

    /// Waits for SIGTERM or SIGINT.
    pub(crate) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for any of them. Several of a kind that come before they are waited for are one.
    pub(crate) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.hangup.recv() => Request::Reload,
            _ = self.succeed.recv() => Request::Succeed,
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Read keys and certificates again, and stage every model's source again.
    Reload,
    /// Start the executable anew, and end when it serves.
    Succeed,
    /// Answer what was accepted, then end.
    Stop,
}
