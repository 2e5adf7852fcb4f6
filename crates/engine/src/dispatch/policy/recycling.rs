//! Workers that use more memory than `--worker-memory` are started again: one at a time, while all
//! others serve. It gets nothing new, answers what it has, ends as its socket does, and is started
//! at once, which is no failure. [`Recycling`] is pure: times and bytes come in as arguments.

use std::time::{Duration, Instant};

use crate::pool::WorkerId;

/// How often the memory of each worker is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a worker is left alone after it was recycled.
const RECYCLE_EVERY: Duration = Duration::from_secs(60);
/// How long a worker may take to end when its socket has.
pub(crate) const END_GRACE: Duration = Duration::from_secs(5);

/// Decides which worker is recycled, and when.
#[derive(Debug)]
pub(crate) struct Recycling {
    /// `None`: no worker ever is.
    pub limit_bytes: Option<u64>,
    /// By worker.
    pub known: Vec<Known>,
    /// The worker that is looked at next, and when: one at a time, so that no look takes long.
    next: (WorkerId, Instant),
    /// Whether it was said that the limit is too small.
    warned: bool,
}

/// What is known of one worker.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    pub recycled_at: Option<Instant>,
    /// It was above the limit when it became ready: recycling it changes nothing.
    hopeless: bool,
    /// By when the process has to be gone.
    pub gone_by: Option<Instant>,
}

impl Recycling {
    pub(crate) fn new(limit_bytes: Option<u64>, workers: usize, now: Instant) -> Self {
        let known = vec![Known::default(); workers];
        Self { limit_bytes, known, next: (0, now), warned: false }
    }

    /// When the next worker is looked at.
    pub(crate) fn at(&self) -> Option<Instant> {
        self.limit_bytes.map(|_| self.next.1)
    }

    /// The worker to look at now, if it is time.
    pub(crate) fn look(&mut self, now: Instant) -> Option<WorkerId> {
        let (id, at) = self.next;
        if self.limit_bytes.is_none() || at > now || self.known.is_empty() {
            return None;
        }
        let count = self.known.len();
        let pause = LOOK_EVERY / u32::try_from(count).unwrap_or(u32::MAX);
        self.next = ((id + 1) % count, now + pause);
        Some(id)
    }

    /// A worker is ready and uses so much. Whether that is too much for the first time.
    pub(crate) fn ready(&mut self, id: WorkerId, bytes: u64) -> bool {
        let hopeless = self.limit_bytes.is_some_and(|limit| bytes > limit);
        self.known[id].hopeless = hopeless;
        hopeless && !std::mem::replace(&mut self.warned, true)
    }

    /// Whether a worker that uses so much is to be recycled, if all workers serve.
    pub(crate) fn is_due(&self, now: Instant, id: WorkerId, bytes: u64) -> bool {
        let Known { recycled_at, hopeless, .. } = self.known[id];
        let lately = recycled_at.is_some_and(|at| now < at + RECYCLE_EVERY);
        self.limit_bytes.is_some_and(|limit| bytes > limit) && !hopeless && !lately
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 100;

    #[test]
    fn without_a_limit_nobody_is_looked_at() {
        let now = Instant::now();
        let mut recycling = Recycling::new(None, 2, now);
        assert_eq!((recycling.at(), recycling.look(now + LOOK_EVERY)), (None, None));
        assert!(!recycling.ready(0, u64::MAX) && !recycling.is_due(now, 0, u64::MAX));
    }

    #[test]
    fn each_worker_is_looked_at_once_a_second_one_after_the_other() {
        let mut now = Instant::now();
        let end = now + 3 * LOOK_EVERY;
        let mut recycling = Recycling::new(Some(LIMIT), 2, now);
        let mut looks = Vec::new();
        while now < end {
            looks.extend(recycling.look(now));
            now = recycling.at().unwrap();
        }
        assert_eq!(looks, [0, 1, 0, 1, 0, 1]);
    }

    #[test]
    fn who_grows_above_the_limit_is_recycled_and_not_again_for_a_while() {
        let now = Instant::now();
        let mut recycling = Recycling::new(Some(LIMIT), 2, now);
        assert!(!recycling.ready(0, LIMIT));
        assert!(!recycling.is_due(now, 0, LIMIT));
        assert!(recycling.is_due(now, 0, LIMIT + 1));
        recycling.known[0].recycled_at = Some(now);
        assert!(!recycling.is_due(now + RECYCLE_EVERY / 2, 0, LIMIT + 1));
        assert!(recycling.is_due(now + RECYCLE_EVERY, 0, LIMIT + 1));
        assert!(recycling.is_due(now, 1, LIMIT + 1), "another is another");
    }

    #[test]
    fn who_starts_above_the_limit_is_left_alone_and_that_is_said_once() {
        let now = Instant::now();
        let mut recycling = Recycling::new(Some(LIMIT), 2, now);
        assert!(recycling.ready(0, LIMIT + 1) && !recycling.ready(1, LIMIT + 1));
        assert!(!recycling.is_due(now, 0, LIMIT + 1));
        assert!(!recycling.ready(0, LIMIT), "its next process may need less");
        assert!(recycling.is_due(now, 0, LIMIT + 1));
    }
}
