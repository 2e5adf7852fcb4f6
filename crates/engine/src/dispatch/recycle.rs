//! Workers that use more memory than `--worker-memory` are started again: one at a time, while all
//! others serve. It gets nothing new, answers what it has, ends as its socket does, and is started
//! at once, which is no failure. [`Recycling`] is pure: times and bytes come in as arguments.

use std::time::{Duration, Instant};

use crate::dispatch::dispatcher::Dispatcher;
use crate::pool::{WorkerId, state::State};
use onnxd_telemetry::metrics::process;

/// How often the memory of each worker is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a worker is left alone after it was recycled.
const RECYCLE_EVERY: Duration = Duration::from_secs(60);
/// How long a worker may take to end when its socket has.
const END_GRACE: Duration = Duration::from_secs(5);

/// Who is recycled when.
#[derive(Debug)]
pub(super) struct Recycling {
    /// `None`: nobody ever is.
    limit_bytes: Option<u64>,
    /// By worker.
    known: Vec<Known>,
    /// Who is looked at next, and when: one after the other, so that no look takes long.
    next: (WorkerId, Instant),
    /// Whether it was said that the limit is too small.
    warned: bool,
}

/// What is known of one worker.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    recycled_at: Option<Instant>,
    /// It was above the limit when it became ready: recycling it changes nothing.
    hopeless: bool,
    /// By when the process has to be gone.
    gone_by: Option<Instant>,
}

impl Recycling {
    pub(super) fn new(limit_bytes: Option<u64>, workers: usize, now: Instant) -> Self {
        let known = vec![Known::default(); workers];
        Self { limit_bytes, known, next: (0, now), warned: false }
    }

    /// When somebody is looked at.
    fn at(&self) -> Option<Instant> {
        self.limit_bytes.map(|_| self.next.1)
    }

    /// Who is to be looked at now.
    fn look(&mut self, now: Instant) -> Option<WorkerId> {
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
    fn ready(&mut self, id: WorkerId, bytes: u64) -> bool {
        let hopeless = self.limit_bytes.is_some_and(|limit| bytes > limit);
        self.known[id].hopeless = hopeless;
        hopeless && !std::mem::replace(&mut self.warned, true)
    }

    /// Whether a worker that uses so much is to be recycled, if all workers serve.
    fn is_due(&self, now: Instant, id: WorkerId, bytes: u64) -> bool {
        let Known { recycled_at, hopeless, .. } = self.known[id];
        let lately = recycled_at.is_some_and(|at| now < at + RECYCLE_EVERY);
        self.limit_bytes.is_some_and(|limit| bytes > limit) && !hopeless && !lately
    }
}

impl Dispatcher {
    /// When [`Dispatcher::recycle`] has to be called next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let gone_by = self.recycling.known.iter().filter_map(|known| known.gone_by);
        gone_by.chain(self.recycling.at()).min()
    }

    /// A worker has become ready.
    pub(super) fn look_at_ready(&mut self, id: WorkerId) {
        let Some(limit_bytes) = self.recycling.limit_bytes else { return };
        let bytes = self.memory_bytes(id);
        if self.recycling.ready(id, bytes) {
            tracing::error!(
                worker = id,
                memory_mib = bytes >> 20,
                limit_mib = limit_bytes >> 20,
                "a worker needs more than --worker-memory from its start and is not recycled: give it more, or serve fewer models"
            );
        }
    }

    /// Begins and ends the recycling of workers.
    pub(super) fn recycle(&mut self, now: Instant) {
        for id in 0..self.workers.len() {
            self.go_on_recycling(id, now);
        }
        let Some(id) = self.recycling.look(now) else { return };
        // Who is given up does not come back, so that nobody waits for it.
        let serves = |state| matches!(state, State::Ready | State::Busy | State::Failed);
        if !self.workers.iter().all(|worker| serves(worker.state.state())) {
            return;
        }
        let bytes = self.memory_bytes(id);
        if self.recycling.is_due(now, id, bytes) && self.workers[id].state.recycle() {
            let limit_mib = self.recycling.limit_bytes.map(|bytes| bytes >> 20);
            tracing::warn!(
                worker = id,
                memory_mib = bytes >> 20,
                limit_mib,
                "a worker uses more than --worker-memory and is recycled"
            );
            self.recycling.known[id].recycled_at = Some(now);
            self.go_on_recycling(id, now);
        }
    }

    /// Has a worker end that has answered all that it had.
    fn go_on_recycling(&mut self, id: WorkerId, now: Instant) {
        let (worker, known) = (&mut self.workers[id], &mut self.recycling.known[id]);
        if !worker.state.is_recycled() {
            known.gone_by = None;
        } else if worker.groups.unanswered().next().is_none() {
            worker.hang_up();
            if *known.gone_by.get_or_insert(now + END_GRACE) <= now {
                known.gone_by = Some(now + END_GRACE);
                worker.kill();
            }
        }
    }

    fn memory_bytes(&self, id: WorkerId) -> u64 {
        // A file of /proc is memory: reading it takes microseconds.
        let pid = self.workers[id].pid().map(|pid| pid.to_string());
        pid.map_or(0, |pid| process::memory_bytes(&pid, "RssAnon"))
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
