//! Decides when workers that exceed `--worker-memory` are recycled: one at a time, and only while
//! all others serve. A recycled worker receives nothing new, answers what it has, exits when its
//! socket closes and is restarted immediately. This does not count as a failure. Pure: callers pass
//! times and sizes.

use std::time::{Duration, Instant};

use crate::pool::WorkerId;

/// How often the memory of each worker is checked.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The minimum time between two recyclings of a worker.
const RECYCLE_EVERY: Duration = Duration::from_secs(60);
/// How long a worker may take to exit after its socket was closed.
pub(crate) const END_GRACE: Duration = Duration::from_secs(5);

/// Decides which worker is recycled, and when.
#[derive(Debug)]
pub(crate) struct Recycling {
    /// `None`: workers are never recycled.
    pub limit_bytes: Option<u64>,
    /// By worker.
    pub workers: Vec<WorkerRecord>,
    /// The worker to check next, and when. Workers are checked in turn to keep each check short.
    next: (WorkerId, Instant),
    /// Whether the warning that the limit is too small was logged.
    warned: bool,
}

/// The recycling state of one worker.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkerRecord {
    pub recycled_at: Option<Instant>,
    /// It was above the limit when it became ready, so recycling it would not help.
    above_limit_at_start: bool,
    /// When the process must have exited.
    pub exit_by: Option<Instant>,
}

impl Recycling {
    pub(crate) fn new(limit_bytes: Option<u64>, workers: usize, now: Instant) -> Self {
        let workers = vec![WorkerRecord::default(); workers];
        Self { limit_bytes, workers, next: (0, now), warned: false }
    }

    /// Returns when the next worker is checked.
    pub(crate) fn check_at(&self) -> Option<Instant> {
        self.limit_bytes.map(|_| self.next.1)
    }

    /// Returns the worker to check now, if one is due.
    pub(crate) fn worker_to_check(&mut self, now: Instant) -> Option<WorkerId> {
        let (id, at) = self.next;
        if self.limit_bytes.is_none() || at > now || self.workers.is_empty() {
            return None;
        }
        let count = self.workers.len();
        let pause = CHECK_EVERY / u32::try_from(count).unwrap_or(u32::MAX);
        self.next = ((id + 1) % count, now + pause);
        Some(id)
    }

    /// Records the memory use of a worker that became ready. Returns whether to warn that the limit
    /// is too small; that happens once.
    pub(crate) fn ready(&mut self, id: WorkerId, bytes: u64) -> bool {
        let above_limit_at_start = self.limit_bytes.is_some_and(|limit| bytes > limit);
        self.workers[id].above_limit_at_start = above_limit_at_start;
        above_limit_at_start && !std::mem::replace(&mut self.warned, true)
    }

    /// Returns whether a worker that uses this much must be recycled, provided that all workers
    /// serve.
    pub(crate) fn is_due(&self, now: Instant, id: WorkerId, bytes: u64) -> bool {
        let WorkerRecord { recycled_at, above_limit_at_start, .. } = self.workers[id];
        let lately = recycled_at.is_some_and(|at| now < at + RECYCLE_EVERY);
        self.limit_bytes.is_some_and(|limit| bytes > limit) && !above_limit_at_start && !lately
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 100;

    #[test]
    fn without_a_limit_no_worker_is_checked() {
        let now = Instant::now();
        let mut recycling = Recycling::new(None, 2, now);
        assert_eq!(
            (recycling.check_at(), recycling.worker_to_check(now + CHECK_EVERY)),
            (None, None)
        );
        assert!(!recycling.ready(0, u64::MAX) && !recycling.is_due(now, 0, u64::MAX));
    }

    #[test]
    fn each_worker_is_checked_once_a_second_in_turn() {
        let mut now = Instant::now();
        let end = now + 3 * CHECK_EVERY;
        let mut recycling = Recycling::new(Some(LIMIT), 2, now);
        let mut checks = Vec::new();
        while now < end {
            checks.extend(recycling.worker_to_check(now));
            now = recycling.check_at().unwrap();
        }
        assert_eq!(checks, [0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn a_worker_above_the_limit_is_recycled_at_most_once_a_minute() {
        let now = Instant::now();
        let mut recycling = Recycling::new(Some(LIMIT), 2, now);
        assert!(!recycling.ready(0, LIMIT));
        assert!(!recycling.is_due(now, 0, LIMIT));
        assert!(recycling.is_due(now, 0, LIMIT + 1));
        recycling.workers[0].recycled_at = Some(now);
        assert!(!recycling.is_due(now + RECYCLE_EVERY / 2, 0, LIMIT + 1));
        assert!(recycling.is_due(now + RECYCLE_EVERY, 0, LIMIT + 1));
        assert!(recycling.is_due(now, 1, LIMIT + 1), "workers are independent");
    }

    #[test]
    fn a_worker_above_the_limit_at_start_is_not_recycled() {
        let now = Instant::now();
        let mut recycling = Recycling::new(Some(LIMIT), 2, now);
        assert!(recycling.ready(0, LIMIT + 1) && !recycling.ready(1, LIMIT + 1));
        assert!(!recycling.is_due(now, 0, LIMIT + 1));
        assert!(!recycling.ready(0, LIMIT), "the next process may need less");
        assert!(recycling.is_due(now, 0, LIMIT + 1));
    }
}
