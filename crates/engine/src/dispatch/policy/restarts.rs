//! When and how often a worker is restarted, and which one is restarted early when none serves.
//! Pure: callers pass the time. The [session](crate::dispatch::policy::session) of each worker
//! keeps a [`History`]; the actor keeps the [`Budget`] of all.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Consecutive failed starts before a worker is given up.
pub const FAILED_STARTS_MAX: u32 = 5;
/// The first delay before a restart; it doubles with every consecutive death.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest delay.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The delay while the system is short of resources, even if no worker serves.
pub(crate) const SCARCE_WAIT: Duration = Duration::from_secs(1);
/// A worker that was ready for this long has recovered: its next death counts as the first.
pub(crate) const RECOVERED_AFTER: Duration = Duration::from_secs(10);
/// Worker deaths are counted in a sliding window of this length.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// Limits the number of worker deaths within [`WINDOW`].
#[derive(Clone, Debug)]
pub struct Budget {
    limit: u32,
    deaths: VecDeque<Instant>,
    exceeded: bool,
}

impl Budget {
    /// Creates the budget of one worker.
    pub(crate) fn per_worker(limit: u32) -> Self {
        Self { limit, deaths: VecDeque::new(), exceeded: false }
    }

    /// Creates the budget shared by all workers. It exceeds that of one worker. It is less than the
    /// sum, so that one input that crashes worker after worker exhausts it.
    pub fn shared(limit: u32, workers: usize) -> Self {
        let workers = u64::try_from(workers).unwrap_or(u64::MAX);
        let all = u64::from(limit).saturating_mul(workers.saturating_add(1)) / 2;
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        Self::per_worker(all.max(limit.saturating_add(1)))
    }

    /// Returns how many deaths are allowed.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Counts a death. Returns `false` if it exceeds the limit.
    pub fn spend(&mut self, now: Instant) -> bool {
        let is_old = |end: &Instant| now.saturating_duration_since(*end) >= WINDOW;
        while self.deaths.front().is_some_and(is_old) {
            self.deaths.pop_front();
        }
        self.deaths.push_back(now);
        let within = self.deaths.len() <= self.limit as usize;
        self.exceeded |= !within;
        within
    }

    /// Returns whether the limit was ever exceeded.
    pub fn is_exceeded(&self) -> bool {
        self.exceeded
    }
}

/// What a worker's exit means for its restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Possibly an accident: try again.
    Accident,
    /// A shortage of system resources, which will pass.
    NotStarted,
    /// The worker exited as requested, for example when it was recycled. Not a failure.
    Requested,
    /// A configuration error: restarting will not help.
    Permanent,
}

/// Whether a death counts in the [`Budget`] of all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountsAsDeath {
    Yes,
    No,
}

/// When a worker is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RestartTimes {
    /// The scheduled time.
    pub start_at: Instant,
    /// The earliest time, used if no worker serves.
    pub soonest: Instant,
}

/// How one worker's processes have exited.
#[derive(Clone, Debug)]
pub(crate) struct History {
    deaths_in_row: u32,
    failed_starts_in_row: u32,
    restarts: u64,
    budget: Budget,
}

impl History {
    /// Creates the history of a worker that may be restarted `restarts_max` times within a minute.
    pub(crate) fn new(restarts_max: u32) -> Self {
        let budget = Budget::per_worker(restarts_max);
        Self { deaths_in_row: 0, failed_starts_in_row: 0, restarts: 0, budget }
    }

    /// Returns how often the worker was restarted.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Returns the number of consecutive deaths that determines the next delay.
    #[cfg(test)]
    pub(crate) fn deaths_in_row(&self) -> u32 {
        self.deaths_in_row
    }

    /// Records that a process became ready.
    pub(crate) fn ready(&mut self) {
        self.failed_starts_in_row = 0;
    }

    /// Records the exit of a process that was ready for `ready_for`, if it ever was. `jitter`, from
    /// 0 to 1, spreads the restarts of several workers. Returns when to restart the worker, or
    /// `None` if it is given up.
    pub(crate) fn ended(
        &mut self,
        now: Instant,
        end: End,
        ready_for: Option<Duration>,
        jitter: f64,
    ) -> (Option<RestartTimes>, CountsAsDeath) {
        if end == End::Requested {
            return (Some(RestartTimes { start_at: now, soonest: now }), CountsAsDeath::No);
        }
        if ready_for.is_some_and(|ready_for| ready_for >= RECOVERED_AFTER) {
            self.deaths_in_row = 0;
        }
        let accident = end == End::Accident;
        let counts = if accident { CountsAsDeath::Yes } else { CountsAsDeath::No };
        self.failed_starts_in_row += u32::from(accident && ready_for.is_none());
        let within = !accident || self.budget.spend(now);
        if end == End::Permanent || !within || self.failed_starts_in_row >= FAILED_STARTS_MAX {
            return (None, counts);
        }
        let soonest = match end {
            End::NotStarted => SCARCE_WAIT,
            _ => backoff(self.failed_starts_in_row.saturating_sub(1), jitter),
        };
        let wait = backoff(self.deaths_in_row, jitter).max(soonest);
        self.deaths_in_row += 1;
        self.restarts += u64::from(end != End::NotStarted);
        (Some(RestartTimes { start_at: now + wait, soonest: now + soonest }), counts)
    }
}

/// Returns a delay that doubles from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], plus up to a quarter for
/// jitter.
fn backoff(deaths_before: u32, jitter: f64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << deaths_before.min(16));
    let spread = 1.0 + jitter.clamp(0.0, 1.0) / 4.0;
    doubled.mul_f64(spread).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_lengthens_a_delay_by_at_most_a_quarter() {
        assert_eq!(backoff(0, 0.0), BACKOFF_MIN);
        assert_eq!(backoff(0, 0.5), BACKOFF_MIN.mul_f64(1.125));
        assert_eq!(backoff(0, 1.0), BACKOFF_MIN.mul_f64(1.25));
        assert_eq!(backoff(0, 7.0), BACKOFF_MIN.mul_f64(1.25));
    }
}
