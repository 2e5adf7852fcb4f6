//! CPU time of the calling thread. Other processes on the same CPU do not affect it.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CPU time since the thread started, clock_gettime(2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime(Duration);

impl CpuTime {
    pub(crate) fn now() -> Self {
        // The clock exists on every Linux. Without it, measurements would be 0.
        let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
        Self(now.unwrap_or_default())
    }

    pub(crate) fn since_start(self) -> Duration {
        self.0
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}
