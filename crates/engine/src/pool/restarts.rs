//! How often workers are started again, and who is started soon when nobody serves. Pure: time comes
//! in as an argument. What one worker's state is stands in [`crate::pool::state`].

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::pool::state::{State, WorkerState};

/// Ends of workers are counted in a window that moves along and is so long.
const WINDOW: Duration = Duration::from_secs(60);

/// How many ends there may be within [`WINDOW`], and those that there were.
#[derive(Clone, Debug)]
pub struct Budget {
    limit: u32,
    ends: VecDeque<Instant>,
    exceeded: bool,
}

impl Budget {
    /// That of one worker.
    pub(super) fn of_one(limit: u32) -> Self {
        Self { limit, ends: VecDeque::new(), exceeded: false }
    }

    /// That of so many workers together: more than for one, and less than for each, or one that goes
    /// through all of them would never be too much.
    pub fn of_all(limit: u32, workers: usize) -> Self {
        let workers = u64::try_from(workers).unwrap_or(u64::MAX);
        let all = u64::from(limit).saturating_mul(workers.saturating_add(1)) / 2;
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        Self::of_one(all.max(limit.saturating_add(1)))
    }

    /// How many ends there may be.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Counts an end; `false` if that is one too many.
    pub fn spend(&mut self, now: Instant) -> bool {
        let is_old = |end: &Instant| now.saturating_duration_since(*end) >= WINDOW;
        while self.ends.front().is_some_and(is_old) {
            self.ends.pop_front();
        }
        self.ends.push_back(now);
        let within = self.ends.len() <= self.limit as usize;
        self.exceeded |= !within;
        within
    }

    /// Whether there was ever one too many.
    pub fn is_exceeded(&self) -> bool {
        self.exceeded
    }
}

/// Where nobody serves and nobody is on the way to, the one with the shortest wait is started as
/// soon as its own failed starts allow: clients wait for it.
pub fn hurry<'a>(workers: impl Iterator<Item = &'a mut WorkerState>) {
    let mut first: Option<&mut WorkerState> = None;
    for worker in workers {
        match worker.state() {
            State::Starting | State::Ready | State::Busy => return,
            State::Draining | State::Stopped | State::Failed => {}
            State::Backoff => {
                if first.as_ref().is_none_or(|first| worker.start_at() < first.start_at()) {
                    first = Some(worker);
                }
            }
        }
    }
    if let Some(first) = first {
        first.hurry();
    }
}

#[cfg(test)]
#[path = "restarts_tests.rs"]
mod tests;
