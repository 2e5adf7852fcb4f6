//! Metrics of a model's source. Reported by the task that watches it, and by updates that download.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
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

/// A time of the wall clock, for people to read. 0 if it never happened.
#[derive(Debug, Default)]
struct Time(AtomicU64);

impl Time {
    fn set(&self, now: SystemTime) {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.0.store(seconds, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Metrics of one model's source.
#[derive(Debug, Default)]
pub struct SourceMetrics {
    watched: AtomicBool,
    checks: [Counter; RESULTS.len()],
    last_checked: Time,
    last_changed: Time,
    last_error: Time,
    /// The id of the snapshot that was seen last.
    snapshot: Mutex<Option<String>>,
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

    /// Records a check.
    pub fn checked(&self, check: Check, now: SystemTime) {
        self.checks[check as usize].increment();
        match check {
            Check::Unchanged => self.last_checked.set(now),
            Check::Changed => {
                self.last_checked.set(now);
                self.last_changed.set(now);
            }
            // Recorded by `failed`.
            Check::Failed => {}
        }
    }

    /// Records that a check or an update failed.
    pub fn failed(&self, now: SystemTime) {
        self.last_error.set(now);
    }

    /// Records the snapshot that was seen last.
    pub fn set_snapshot(&self, id: Option<&str>) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = id.map(str::to_owned);
    }

    /// Returns the snapshot that was seen last.
    pub fn snapshot(&self) -> Option<String> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        self.last_checked.get()
    }

    /// Returns when its content was last seen to change, in seconds since the Unix epoch; 0 if never.
    pub fn last_changed(&self) -> u64 {
        self.last_changed.get()
    }

    /// Returns when a check or an update last failed, in seconds since the Unix epoch; 0 if never.
    pub fn last_error(&self) -> u64 {
        self.last_error.get()
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
        assert_eq!((source.last_checked(), source.last_changed()), (9, 7));
        assert_eq!(source.last_error(), 0);
        source.failed(at(11));
        assert_eq!(source.last_error(), 11);
        let counted: Vec<_> = source.check_results().collect();
        assert_eq!(counted, [("unchanged", 1), ("changed", 1), ("failed", 2)]);
    }
}
