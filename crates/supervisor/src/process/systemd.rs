//! Notifies systemd of the service's state, see sd_notify(3). Called by [`crate::serve`]. Without `NOTIFY_SOCKET`
//! every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Reports that the service is ready.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// Reports what a start does. If it goes on, systemd waits for at least `longer`.
pub(crate) fn starting(status: &str, longer: Option<Duration>) {
    let status = one_line(status);
    let longer = longer.and_then(|longer| u32::try_from(longer.as_micros()).ok());
    let states = longer.map(NotifyState::ExtendTimeoutUsec).into_iter();
    send(&states.chain([NotifyState::Status(&status)]).collect::<Vec<_>>());
}

/// Returns a text without line breaks, each of which would begin another message.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

/// Reports that a reload begins. [`ready`] ends it, even if it was refused.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the monotonic clock"),
    }
}

/// Reports that the service stops, which may take as long as `longest`. systemd waits at least as long.
pub(crate) fn stopping(longest: Duration) {
    let longest = u32::try_from(longest.as_micros()).unwrap_or(u32::MAX);
    let states = [NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(longest)];
    send(&[&states[..], &[NotifyState::Status("draining")]].concat());
}

/// Reports that another process is now the main process. systemd accepts this only from the current one.
pub(crate) fn main_process_is(pid: u32) {
    send(&[NotifyState::MainPid(pid), NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Reports that the request path works.
pub(crate) fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// Returns the longest interval between two calls of [`alive`], if systemd watches this process.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
