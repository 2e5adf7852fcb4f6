//! When a source is asked next: at an interval with jitter, later after failures, at once on
//! request. Pure.

use std::time::{Duration, Instant};

/// Longest pause after failures, unless the interval is longer or the server asks for more.
const BACK_OFF_MAX: Duration = Duration::from_secs(15 * 60);
/// Longest pause that a server may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// The schedule of one source.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    /// Longest pause after failures, before jitter.
    longest: Duration,
    due: Instant,
    /// Failures in a row.
    failures: u32,
    /// State of the jitter: a xorshift generator, never 0.
    seed: u64,
}

impl Schedule {
    /// Returns a schedule whose first check is due within one interval, so that servers which start
    /// together do not ask together. `seed` determines the jitter.
    pub(super) fn new(now: Instant, interval: Duration, seed: u64) -> Self {
        let longest = BACK_OFF_MAX.max(interval);
        let mut schedule = Self { interval, longest, due: now, failures: 0, seed: seed | 1 };
        let part = schedule.fraction();
        schedule.due = now + interval.mul_f64(part);
        schedule
    }

    /// Returns a schedule of attempts that begin now and pause for at most `longest` after failures,
    /// unless the server asks for more.
    pub(super) fn of_attempts(
        now: Instant,
        interval: Duration,
        longest: Duration,
        seed: u64,
    ) -> Self {
        Self { interval, longest, due: now, failures: 0, seed: seed | 1 }
    }

    /// Returns when the next check is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Records a check that succeeded.
    pub(super) fn succeeded(&mut self, now: Instant) {
        self.failures = 0;
        self.due = now + self.jittered(self.interval);
    }

    /// Records a check that found an upload running, which says nothing about the source's health.
    pub(super) fn postponed(&mut self, now: Instant, retry_after: Option<Duration>) {
        self.succeeded(now);
        self.due = self.due.max(now + retry_after.unwrap_or_default().min(RETRY_AFTER_MAX));
    }

    /// Records a check that failed.
    pub(super) fn failed(&mut self, now: Instant, retry_after: Option<Duration>) {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = (self.failures + 1).min(16);
        let pause = self.jittered(self.interval.saturating_mul(factor).min(self.longest));
        self.due = now + pause.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX));
    }

    /// Returns a pause between 0.9 and 1.1 times as long.
    fn jittered(&mut self, pause: Duration) -> Duration {
        let part = self.fraction();
        pause.mul_f64(0.9 + 0.2 * part)
    }

    /// Returns the next number from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "jitter needs few bits")]
    fn fraction(&mut self) -> f64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);

    fn pause(schedule: &Schedule, now: Instant) -> f64 {
        schedule.due().duration_since(now).as_secs_f64()
    }

    #[test]
    fn checks_are_spread_around_the_interval() {
        let now = Instant::now();
        for seed in 0..100 {
            let mut schedule = Schedule::new(now, INTERVAL, seed * 7919);
            assert!((0.0..=60.0).contains(&pause(&schedule, now)));
            for _ in 0..10 {
                schedule.succeeded(now);
                assert!((54.0..=66.0).contains(&pause(&schedule, now)));
            }
        }
    }

    #[test]
    fn failures_back_off_up_to_the_limit_and_success_ends_that() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, INTERVAL, 1);
        let mut last = 0.0;
        for expected in [60.0, 120.0, 240.0, 480.0, 900.0, 900.0, 900.0] {
            schedule.failed(now, None);
            last = pause(&schedule, now);
            assert!((expected * 0.9..=expected * 1.1).contains(&last), "{last} for {expected}");
        }
        assert!(last > 800.0);
        (0..100).for_each(|_| schedule.failed(now, None));
        assert!(pause(&schedule, now) < 1000.0);
        schedule.succeeded(now);
        assert!(pause(&schedule, now) <= 66.0);
    }

    #[test]
    fn a_running_upload_is_checked_at_the_interval() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, INTERVAL, 1);
        schedule.failed(now, None);
        for _ in 0..10 {
            schedule.postponed(now, None);
            assert!((54.0..=66.0).contains(&pause(&schedule, now)));
        }
        schedule.postponed(now, Some(Duration::from_secs(600)));
        assert!((600.0..601.0).contains(&pause(&schedule, now)));
    }

    #[test]
    fn attempts_begin_at_once_and_pause_at_most_as_long_as_stated() {
        let now = Instant::now();
        let longest = Duration::from_secs(100);
        let mut schedule = Schedule::of_attempts(now, INTERVAL, longest, 1);
        assert_eq!(schedule.due(), now);
        for expected in [60.0, 100.0, 100.0] {
            schedule.failed(now, None);
            let pause = pause(&schedule, now);
            assert!((expected * 0.9..=expected * 1.1).contains(&pause), "{pause} for {expected}");
        }
    }

    #[test]
    fn a_server_may_ask_for_a_longer_pause_within_an_hour() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now, INTERVAL, 1);
        schedule.failed(now, Some(Duration::from_secs(600)));
        assert!((600.0..601.0).contains(&pause(&schedule, now)));
        schedule.failed(now, Some(Duration::from_secs(1_000_000)));
        assert!((3600.0..3601.0).contains(&pause(&schedule, now)));
    }
}
