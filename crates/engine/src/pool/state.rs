//! In which state a worker is, and when it is started again. Pure: time comes in as an argument,
//! what to do comes out.
//!
//! ```text
//!            started            ready             group sent
//! backoff ───────────► starting ─────► ready ◄──────────────► busy
//!    ▲                    │              │      group done      │
//!    └────────────────────┴──────────────┴──────────────────────┘  ended
//!                         └──► failed   (cannot be started, or too often)
//!            any ──► draining ──► stopped
//!   ready or busy ──► draining ──► backoff  (recycled: started again at once, no failure)
//! ```
//!
//! When nobody serves, [`crate::pool::restarts::hurry`] shortens the wait of one.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::pool::restarts::Budget;

/// Starts that may fail in a row before a worker is given up.
pub const FAILED_STARTS_MAX: u32 = 5;
/// The first wait before a worker is started again; it doubles with every death in a row.
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The wait of one that the system has nothing for, also if nobody serves.
pub(super) const SCARCE_WAIT: Duration = Duration::from_secs(1);
/// A worker that was ready for so long has recovered: its next death is a first one.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);

/// The states, with the names that logs, status and documents use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The process runs and loads its models.
    Starting,
    /// It waits for work.
    Ready,
    /// It computes.
    Busy,
    /// It finishes what it has and gets nothing new.
    Draining,
    /// It has ended because it was told to.
    Stopped,
    /// It has ended and will be started again.
    Backoff,
    /// It is given up.
    Failed,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Ready,
        Self::Busy,
        Self::Draining,
        Self::Stopped,
        Self::Backoff,
        Self::Failed,
    ];
}

/// One worker's state and history.
#[derive(Clone, Debug)]
pub struct WorkerState {
    state: State,
    /// Since when it has been ready or busy.
    ready_since: Option<Instant>,
    /// When a worker in back-off is started.
    start_at: Option<Instant>,
    /// When it may be started if nobody serves.
    soonest: Instant,
    deaths_in_row: u32,
    failed_starts_in_row: u32,
    restarts: u64,
    budget: Budget,
    /// It drains so that it can be started again.
    recycled: bool,
}

/// Whether an end is worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It may have been an accident.
    Accident,
    /// It was not started, because the system had not enough of something: that passes.
    NotStarted,
    /// It was recycled, which says nothing about it.
    Ordered,
    /// Starting again changes nothing: the configuration is wrong.
    Hopeless,
}

impl WorkerState {
    /// A worker that is to be started at `now`, and so often again within a minute.
    pub fn new(now: Instant, restarts_max: u32) -> Self {
        Self {
            state: State::Backoff,
            ready_since: None,
            start_at: Some(now),
            soonest: now,
            deaths_in_row: 0,
            failed_starts_in_row: 0,
            restarts: 0,
            budget: Budget::of_one(restarts_max),
            recycled: false,
        }
    }

    /// The present state.
    pub fn state(&self) -> State {
        self.state
    }

    /// How often it was started again.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Whether it may get work now.
    pub fn is_idle(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether it answers requests.
    pub fn serves(&self) -> bool {
        matches!(self.state, State::Ready | State::Busy)
    }

    /// When [`WorkerState::start_due`] has to be asked next.
    pub fn start_at(&self) -> Option<Instant> {
        self.start_at
    }

    /// Whether the process is to be started now; the worker is starting from then on.
    pub fn start_due(&mut self, now: Instant) -> bool {
        let due = self.start_at.is_some_and(|at| at <= now);
        if due {
            self.start_at = None;
            self.state = State::Starting;
        }
        due
    }

    /// Nobody serves: does not wait longer than for its own failed starts.
    pub(super) fn hurry(&mut self) {
        self.start_at = self.start_at.map(|at| at.min(self.soonest));
    }

    /// It is not started again.
    pub fn give_up(&mut self) {
        if self.state == State::Backoff {
            self.start_at = None;
            self.state = State::Failed;
        }
    }

    /// It has loaded everything.
    pub fn ready(&mut self, now: Instant) {
        if self.state == State::Starting {
            self.state = State::Ready;
            self.ready_since = Some(now);
            self.failed_starts_in_row = 0;
        }
    }

    /// It was given a group.
    pub fn group_sent(&mut self) {
        if self.state == State::Ready {
            self.state = State::Busy;
        }
    }

    /// It has answered its group.
    pub fn group_done(&mut self) {
        if self.state == State::Busy {
            self.state = State::Ready;
        }
    }

    /// It gets nothing new, ends when it has answered what it has, and is started again at once.
    /// `false`: it does not serve.
    pub fn recycle(&mut self) -> bool {
        let serves = self.serves();
        if serves {
            self.state = State::Draining;
            self.recycled = true;
        }
        serves
    }

    /// Whether it drains so that it can be started again.
    pub fn is_recycled(&self) -> bool {
        self.recycled
    }

    /// It gets nothing new and is not started again.
    pub fn drain(&mut self) {
        self.recycled = false;
        match self.state {
            State::Starting | State::Ready | State::Busy => self.state = State::Draining,
            State::Backoff => self.state = State::Stopped,
            State::Draining | State::Stopped | State::Failed => {}
        }
        self.start_at = None;
    }

    /// Its process has ended. `jitter`, from 0 to 1, spreads the restarts of several workers. Gives
    /// whether this counts among the ends of all workers.
    pub fn ended(&mut self, now: Instant, end: End, jitter: f64) -> bool {
        let recycled = std::mem::take(&mut self.recycled);
        let ready_for = self.ready_since.take().map(|since| now.duration_since(since));
        match self.state {
            State::Draining if recycled => {}
            State::Draining => {
                self.state = State::Stopped;
                return false;
            }
            State::Stopped | State::Failed => return false,
            _ => {}
        }
        if end == End::Ordered {
            (self.soonest, self.start_at) = (now, Some(now));
            self.state = State::Backoff;
            return false;
        }
        if ready_for.is_some_and(|ready_for| ready_for >= RECOVERED_AFTER) {
            self.deaths_in_row = 0;
        }
        let accident = end == End::Accident;
        self.failed_starts_in_row += u32::from(accident && ready_for.is_none());
        let within = !accident || self.budget.spend(now);
        if end == End::Hopeless || !within || self.failed_starts_in_row >= FAILED_STARTS_MAX {
            self.state = State::Failed;
            return accident;
        }
        let soonest = match end {
            End::NotStarted => SCARCE_WAIT,
            _ => backoff(self.failed_starts_in_row.saturating_sub(1), jitter),
        };
        let wait = backoff(self.deaths_in_row, jitter).max(soonest);
        (self.soonest, self.start_at) = (now + soonest, Some(now + wait));
        self.deaths_in_row += 1;
        self.restarts += u64::from(end != End::NotStarted);
        self.state = State::Backoff;
        accident
    }
}

/// Doubles from [`BACKOFF_MIN`] to [`BACKOFF_MAX`], and up to a quarter more by jitter.
fn backoff(deaths_before: u32, jitter: f64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << deaths_before.min(16));
    let spread = 1.0 + jitter.clamp(0.0, 1.0) / 4.0;
    doubled.mul_f64(spread).min(BACKOFF_MAX)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
