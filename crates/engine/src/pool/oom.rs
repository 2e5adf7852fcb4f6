//! Tells whether the kernel killed a process because memory ran out. The kernel only counts such kills
//! in a control group, so a kill is attributed if the count has just grown. Used by
//! [`process_monitor`](crate::pool::process_monitor); `serve` runs [`OomKills::watch`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::pool::process_exit::ProcessExit;

/// How long a counted kill may explain an exit: the monitor of the process reports it at once.
const FRESH: Duration = Duration::from_secs(2);
/// How often the count is read, so that older kills explain nothing.
const INTERVAL: Duration = Duration::from_secs(1);

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

    /// Reads the count regularly. Logs kills of processes that are no workers, such as checkers.
    pub async fn watch(self) {
        // Under memory pressure, the kernel may let a read wait.
        while let Ok(Some(count)) = tokio::task::spawn_blocking(self.read).await {
            let others = self.lock().observe(count, Instant::now());
            if others > 0 {
                let message = "out-of-memory kill of another process in the control group";
                tracing::warn!(kills = others, oom_kill = count, "{message}");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the description of an exit that memory ran out, if it did.
    pub(crate) fn explain(&self, exit: ProcessExit) -> ProcessExit {
        let Some(count) = (self.read)().filter(|_| exit.was_killed()) else { return exit };
        if !self.lock().explains(count, Instant::now()) {
            return exit;
        }
        let reason =
            format!("{}, out of memory (oom_kill of the control group is {count})", exit.reason);
        ProcessExit { reason, ..exit }
    }
}

impl Seen {
    /// Returns whether one of the kills so far explains the exit of a process that was killed.
    fn explains(&mut self, count: u64, now: Instant) -> bool {
        self.observe(count, now);
        let explains = self.unexplained > 0;
        self.unexplained -= u64::from(explains);
        explains
    }

    /// Takes note of the count. Returns how many kills have become too old to explain an exit.
    fn observe(&mut self, count: u64, now: Instant) -> u64 {
        let is_old = now.saturating_duration_since(self.at) > FRESH;
        let old = if is_old { std::mem::take(&mut self.unexplained) } else { 0 };
        let grown = count.saturating_sub(self.count);
        if grown > 0 {
            (self.unexplained, self.at) = (self.unexplained + grown, now);
        }
        self.count = count;
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_explained_by_one_that_the_kernel_has_just_counted() {
        let start = Instant::now();
        let mut seen = Seen { count: 3, unexplained: 0, at: start };
        let after = |millis| start + Duration::from_millis(millis);
        assert!(!seen.explains(3, after(0)), "nothing was counted");
        // Two kills were counted before the first was seen.
        assert!(seen.explains(5, after(10)));
        assert!(seen.explains(5, after(20)));
        assert!(!seen.explains(5, after(30)));
        // What belongs to no worker explains no later kill.
        assert_eq!(seen.observe(6, after(100)), 0);
        assert_eq!(seen.observe(6, after(1100)), 0);
        assert_eq!(seen.observe(6, after(2200)), 1);
        assert!(!seen.explains(6, after(3000)));
        assert!(seen.explains(7, after(9000)));
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
