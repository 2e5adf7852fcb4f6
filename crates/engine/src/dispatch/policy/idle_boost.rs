//! Decides when a lone item may borrow the CPUs of idle workers. Pure: callers pass the time.

use std::time::{Duration, Instant};

use crate::dispatch::policy::estimate::Work;

/// Stay single-threaded for this long after two items overlapped. Under intermittent load, helpers
/// would slow down as many items as they speed up.
const COOLDOWN: Duration = Duration::from_millis(20);
/// Shorter runs finish before helpers wake up, in microseconds.
const RUN_MICROS_MIN: u32 = 1_500;

/// Tracks recent concurrency.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdleBoost {
    busy_until: Option<Instant>,
}

impl IdleBoost {
    /// Records how many items wait or are computed.
    pub(crate) fn observe(&mut self, now: Instant, in_flight: usize) {
        if in_flight > 1 {
            self.busy_until = Some(now + COOLDOWN);
        }
    }

    /// Returns whether the only item in flight may use several CPUs.
    pub(crate) fn applies(self, now: Instant, work: Work) -> bool {
        self.busy_until.is_none_or(|until| now >= until) && work.micros >= RUN_MICROS_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Work = Work { tokens: 20, micros: 5_000, bytes: 80 };

    #[test]
    fn boost_applies_after_the_cooldown() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut boost = IdleBoost::default();
        boost.observe(at(1), 1);
        assert!(boost.applies(at(1), LONG));
        boost.observe(at(2), 2);
        boost.observe(at(3), 1);
        assert!(!boost.applies(at(22) - Duration::from_micros(1), LONG));
        assert!(boost.applies(at(22), LONG));
    }

    #[test]
    fn short_runs_are_not_boosted() {
        let boost = IdleBoost::default();
        assert!(!boost.applies(Instant::now(), Work { tokens: 20, micros: 100, bytes: 80 }));
    }
}
