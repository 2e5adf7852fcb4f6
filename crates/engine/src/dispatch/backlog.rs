//! How long new work would wait. The [actor](crate::dispatch::actor) writes it, and
//! [`gather`](crate::dispatch::gather) tells refused clients when to retry.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::dispatch::item::Priority;

/// How long new work of each priority waits for what waits already, as the dispatcher estimates it.
#[derive(Debug, Default)]
pub struct Backlog {
    interactive_micros: AtomicU64,
    background_micros: AtomicU64,
}

impl Backlog {
    /// The last estimate.
    pub fn read(&self, priority: Priority) -> Duration {
        Duration::from_micros(self.of(priority).load(Ordering::Relaxed))
    }

    /// Replaces the estimate.
    pub fn set(&self, priority: Priority, micros: u64) {
        self.of(priority).store(micros, Ordering::Relaxed);
    }

    fn of(&self, priority: Priority) -> &AtomicU64 {
        match priority {
            Priority::Interactive => &self.interactive_micros,
            Priority::Background => &self.background_micros,
        }
    }
}
