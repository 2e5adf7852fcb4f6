//! How fast updates of one model may follow each other. Loading takes time from serving, so that
//! a storm of updates must not be followed step by step. Pure; part of a model's
//! [`machine`](crate::models::machine).

use std::time::{Duration, Instant};

/// In a storm, updates begin so far apart.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);
/// Updates that may begin at once before that counts.
pub(super) const BURST: u32 = 8;

/// Remembers what has begun, as the generic cell rate algorithm does (ITU-T I.371).
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When all that has begun would have begun at one each interval.
    paid_until: Option<Instant>,
}

impl Pace {
    /// When the next update may begin; `None` is at once.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.paid_until?.checked_sub(INTERVAL * BURST)
    }

    /// Whether an update may begin.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.not_before().is_none_or(|earliest| earliest <= now)
    }

    /// An update begins.
    pub(super) fn begun(&mut self, now: Instant) {
        self.paid_until = Some(self.paid_until.map_or(now, |until| until.max(now)) + INTERVAL);
    }
}
