//! systemd's notification protocol, sd_notify(3): READY, RELOADING with its time in the same
//! datagram, STOPPING, WATCHDOG, MAINPID. Without `NOTIFY_SOCKET` every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service can answer.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins. [`ready`] ends it, however it went.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the monotonic clock cannot be read"),
    }
}

/// The service stops taking requests.
pub(crate) fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// From now on that process is the service. Only from what it was: systemd listens to the main process.
pub(crate) fn main_process_is(pid: u32) {
    send(&[NotifyState::MainPid(pid), NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The request path has just been seen to work.
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear from us at least; half of it is a good period.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}
