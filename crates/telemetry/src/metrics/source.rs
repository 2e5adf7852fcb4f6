//! Metrics of a model's source. Reported by the task that watches it, and by updates that download.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::metrics::counter::Counter;

/// Values of the label `result`, in the order of [`Check`].
const RESULTS: [&str; 3] = ["unchanged", "changed", "failed"];

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The source holds what it held before.
    Unchanged,
    /// The source holds something else.
    Changed,
    /// The source did not answer, or its content is not usable.
    Failed,
}

/// Metrics of one model's source.
#[derive(Debug, Default)]
pub struct SourceMetrics {
    watched: AtomicBool,
    checks: [Counter; RESULTS.len()],
    /// Seconds since the Unix epoch.
    last_checked: AtomicU64,
    downloaded: Counter,
}

impl SourceMetrics {
    /// Records that the source is watched. Only then are its series shown.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }

    /// Returns whether the source is watched.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// Records a check. `now` is the wall clock, for people to read.
    pub fn checked(&self, check: Check, now: SystemTime) {
        self.checks[check as usize].increment();
        if check != Check::Failed {
            let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.last_checked.store(seconds, Ordering::Relaxed);
        }
    }

    /// Records downloaded bytes.
    pub fn downloaded(&self, bytes: u64) {
        self.downloaded.add(bytes);
    }

    /// Returns the number of checks for each result.
    pub fn check_results(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        RESULTS.into_iter().zip(self.checks.iter().map(Counter::get))
    }

    /// Returns when the source answered last, in seconds since the Unix epoch; 0 if never.
    pub fn last_checked(&self) -> u64 {
        self.last_checked.load(Ordering::Relaxed)
    }

    /// Returns the bytes downloaded since the start.
    pub fn bytes_downloaded(&self) -> u64 {
        self.downloaded.get()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_a_check_that_the_source_answered_sets_the_time() {
        let source = SourceMetrics::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        source.checked(Check::Failed, at(5));
        assert_eq!(source.last_checked(), 0);
        source.checked(Check::Changed, at(7));
        source.checked(Check::Unchanged, at(9));
        source.checked(Check::Failed, at(11));
        assert_eq!(source.last_checked(), 9);
        let counted: Vec<_> = source.check_results().collect();
        assert_eq!(counted, [("unchanged", 1), ("changed", 1), ("failed", 2)]);
    }
}
