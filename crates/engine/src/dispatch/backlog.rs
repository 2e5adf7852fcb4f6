//! How long new work would wait. Written by the [actor](crate::dispatch::actor); read by
//! [`gather`](crate::dispatch::gather) to tell rejected clients when to retry.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::dispatch::item::Priority;

/// The dispatcher's estimate of the queueing delay for new work, by priority.
#[derive(Debug, Default)]
pub struct Backlog {
    interactive_micros: AtomicU64,
    background_micros: AtomicU64,
}

impl Backlog {
    /// Returns the latest estimate.
    pub fn read(&self, priority: Priority) -> Duration {
        Duration::from_micros(self.micros(priority).load(Ordering::Relaxed))
    }

    /// Replaces the estimate.
    pub fn set(&self, priority: Priority, micros: u64) {
        self.micros(priority).store(micros, Ordering::Relaxed);
    }

    fn micros(&self, priority: Priority) -> &AtomicU64 {
        match priority {
            Priority::Interactive => &self.interactive_micros,
            Priority::Background => &self.background_micros,
        }
    }
}
