//! Limits how fast updates of one model follow each other, because loading takes CPU time from
//! serving. Pure; part of a model's [`machine`](crate::models::machine).

use std::time::{Duration, Instant};

/// Interval between updates once the burst is used up.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);
/// Updates that may start at once before [`INTERVAL`] applies.
pub(super) const BURST: u32 = 8;

/// Rate limiter for updates: the generic cell rate algorithm (ITU-T I.371).
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The theoretical start of the next update if all had started one interval apart.
    next_due: Option<Instant>,
}

impl Pace {
    /// Returns when the next update may start; `None` means at once.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.next_due?.checked_sub(INTERVAL * BURST)
    }

    /// Returns whether an update may start.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.not_before().is_none_or(|earliest| earliest <= now)
    }

    /// Records the start of an update.
    pub(super) fn record_start(&mut self, now: Instant) {
        self.next_due = Some(self.next_due.map_or(now, |due| due.max(now)) + INTERVAL);
    }
}
