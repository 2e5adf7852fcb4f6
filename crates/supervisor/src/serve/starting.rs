//! Tells systemd what a start does, and asks it for more time while the start makes progress or waits on
//! purpose. Called by [`crate::serve`].

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use onnxd_engine::models::startup::{Phase, Startup};
use tokio::time;

use crate::process::systemd;

/// Pause between two notifications.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long systemd waits after each. It ignores this until `TimeoutStartSec` is nearly over.
const LONGER: Duration = Duration::from_secs(30);
/// Time beyond that of a check in which a start may make no visible progress.
const MARGIN: Duration = Duration::from_secs(60);

/// Notifies systemd until it is dropped. `check_timeout` is the longest step of a start.
pub(super) async fn announce(startup: &Startup, check_timeout: Duration) -> Infallible {
    let mut phases = startup.subscribe();
    let mut patience = Patience::new(Instant::now(), check_timeout + MARGIN);
    loop {
        let phase = phases.borrow_and_update().clone();
        let goes_on = patience.goes_on(Instant::now(), startup.steps(), &phase);
        let status = match phase {
            Phase::Done => "starting the workers".to_owned(),
            phase => phase.in_full(),
        };
        systemd::starting(&status, goes_on.then_some(LONGER));
        // An error means that the server was dropped, and this with it.
        let _ = time::timeout(INTERVAL, phases.changed()).await;
    }
}

/// Decides whether a start is worth waiting for. Pure: callers pass the time.
struct Patience {
    limit: Duration,
    steps: u64,
    /// When the steps rose last, or the start waited on purpose.
    last: Instant,
}

impl Patience {
    fn new(now: Instant, limit: Duration) -> Self {
        Self { limit, steps: 0, last: now }
    }

    /// Returns whether the start waits on purpose, or has made progress within the limit.
    fn goes_on(&mut self, now: Instant, steps: u64, phase: &Phase) -> bool {
        if steps != self.steps || matches!(phase, Phase::Waiting { .. }) {
            (self.steps, self.last) = (steps, now);
        }
        now.duration_since(self.last) < self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_gets_time_while_it_progresses_or_waits_on_purpose() {
        let (start, limit) = (Instant::now(), Duration::from_secs(180));
        let at = |seconds| start + Duration::from_secs(seconds);
        let waiting = Phase::Waiting { model: "m".into(), reason: "away".into() };
        let mut patience = Patience::new(start, limit);
        for (seconds, steps, phase, expected) in [
            (0, 0, &Phase::Begun, true),
            (179, 0, &Phase::Begun, true),
            (180, 0, &Phase::Begun, false),
            (181, 1, &Phase::Begun, true),
            (360, 1, &Phase::Begun, true),
            (361, 1, &Phase::Begun, false),
            (9_000, 1, &waiting, true),
            (9_179, 1, &Phase::Done, true),
            (9_180, 1, &Phase::Done, false),
        ] {
            assert_eq!(patience.goes_on(at(seconds), steps, phase), expected, "{seconds} s");
        }
    }
}
