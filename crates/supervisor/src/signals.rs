//! Signals of the supervisor: SIGHUP reloads, SIGTERM and SIGINT drain, a second one ends at
//! once. Nothing here acts on a signal; [`crate::serve`] does.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{self, SignalKind};

/// Blocks SIGHUP until [`Signals::install`], since its default action would end the process.
pub(crate) fn hold_back() {
    // Blocking a valid signal for the calling thread cannot fail.
    let _ = hangup().thread_block();
}

fn hangup() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGHUP);
    set
}

/// The signals that the supervisor waits for.
#[derive(Debug)]
pub(crate) struct Signals {
    hangup: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    /// Takes over the signals; a SIGHUP that was held back is delivered now.
    ///
    /// # Errors
    /// The kernel or the runtime refuses a handler.
    pub(crate) fn install() -> io::Result<Self> {
        let signals = Self {
            hangup: unix::signal(SignalKind::hangup())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        };
        hangup().thread_unblock()?;
        Ok(signals)
    }

    /// Waits for SIGTERM or SIGINT.
    pub(crate) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for any of them. Several SIGHUPs that come before they are waited for are one.
    pub(crate) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.hangup.recv() => Request::Reload,
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
    /// Answer what was accepted, then end.
    Stop,
}
