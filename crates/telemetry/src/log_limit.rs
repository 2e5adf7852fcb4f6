//! Limits log lines that others can cause without limit, such as refused connections.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines per [`WINDOW`].
const LINES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Limits the lines of one kind to ten a minute. Keep one in a `static` for each kind, or
/// one in each object that the lines are about.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Option<Lines>>);

#[derive(Debug)]
struct Lines {
    since: Instant,
    count: u32,
    suppressed: u64,
}

impl LogLimit {
    /// Creates a limit without lines.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Returns how many lines were suppressed since the last one, if another may be written now.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = lines.get_or_insert(Lines { since: now, count: 0, suppressed: 0 });
        if now.saturating_duration_since(lines.since) >= WINDOW {
            (lines.since, lines.count) = (now, 0);
        }
        if lines.count == LINES_MAX {
            lines.suppressed += 1;
            return None;
        }
        lines.count += 1;
        Some(std::mem::take(&mut lines.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_ten_lines_a_minute_and_the_rest_is_counted() {
        let (limit, start) = (LogLimit::new(), Instant::now());
        let admitted = |after| limit.admit_at(start + Duration::from_secs(after));
        let lines: Vec<_> = (0..1000).filter_map(|_| admitted(59)).collect();
        assert_eq!(lines, [0; 10]);
        // The window began with the first line.
        assert_eq!(admitted(118), None);
        assert_eq!(admitted(119), Some(991));
        assert_eq!(admitted(119), Some(0));
    }
}
