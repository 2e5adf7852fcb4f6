//! Tells whether the kernel killed a process because memory ran out. The kernel only counts such kills
//! in a control group, so a kill is attributed if the count has grown. Used by
//! [`process_monitor`](crate::pool::process_monitor).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::pool::process_exit::ProcessExit;

/// Within this time after one kill, another that was counted with it may be reported.
const TOGETHER: Duration = Duration::from_secs(2);

/// The out-of-memory kills of this process's control group. Clones share what was attributed.
#[derive(Clone, Debug)]
pub struct OomKills {
    /// Returns the kernel's count, if there is one.
    read: fn() -> Option<u64>,
    seen: Arc<Mutex<Seen>>,
}

/// The kills that were seen.
#[derive(Debug)]
struct Seen {
    count: u64,
    /// Kills that no process was told of yet, and when they were seen.
    unexplained: u64,
    at: Instant,
}

impl OomKills {
    /// Counts from now on. `read` returns the kernel's count.
    pub fn new(read: fn() -> Option<u64>) -> Self {
        let seen = Seen { count: read().unwrap_or(0), unexplained: 0, at: Instant::now() };
        Self { read, seen: Arc::new(Mutex::new(seen)) }
    }

    /// Adds to the description of an exit that memory ran out, if it did.
    pub(crate) fn explain(&self, exit: ProcessExit) -> ProcessExit {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Killed by SIGKILL only. Other exits still bring the count up to date.
        let Some(count) = (self.read)() else { return exit };
        if !seen.explains(count, exit.was_killed(), Instant::now()) {
            return exit;
        }
        let reason =
            format!("{}, out of memory (oom_kill of the control group is {count})", exit.reason);
        ProcessExit { reason, ..exit }
    }
}

impl Seen {
    /// Returns whether one of the kills so far explains an exit.
    fn explains(&mut self, count: u64, killed: bool, now: Instant) -> bool {
        if now.saturating_duration_since(self.at) > TOGETHER {
            self.unexplained = 0;
        }
        let grown = count.saturating_sub(self.count);
        if grown > 0 {
            (self.unexplained, self.at) = (self.unexplained + grown, now);
        }
        self.count = count;
        let explains = killed && self.unexplained > 0;
        self.unexplained -= u64::from(explains);
        explains
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_explained_by_one_that_the_kernel_counted() {
        let start = Instant::now();
        let mut seen = Seen { count: 3, unexplained: 0, at: start };
        let after = |millis| start + Duration::from_millis(millis);
        assert!(!seen.explains(3, true, after(0)), "nothing was counted");
        // Two kills were counted before the first was seen.
        assert!(seen.explains(5, true, after(10)));
        assert!(seen.explains(5, true, after(20)));
        assert!(!seen.explains(5, true, after(30)));
        // What belongs to no worker explains no later kill.
        assert!(!seen.explains(6, false, after(100)));
        assert!(!seen.explains(6, true, after(3000)));
        assert!(seen.explains(7, true, after(9000)));
    }

    #[test]
    fn only_a_kill_is_described_as_out_of_memory() {
        let exit = |signal| ProcessExit { signal, ..ProcessExit::unknown("signal".into()) };
        let kills = OomKills::new(|| Some(1));
        assert_eq!(kills.explain(exit(Some(9))).reason, "signal");
        kills.seen.lock().unwrap().count = 0;
        let reason = kills.explain(exit(Some(9))).reason;
        assert_eq!(reason, "signal, out of memory (oom_kill of the control group is 1)");
        kills.seen.lock().unwrap().count = 0;
        assert_eq!(kills.explain(exit(Some(11))).reason, "signal");
        assert_eq!(OomKills::new(|| None).explain(exit(Some(9))).reason, "signal");
    }
}
