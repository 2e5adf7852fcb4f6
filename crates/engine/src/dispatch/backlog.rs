//! How long new work would wait. The [actor](crate::dispatch::actor) writes it, and
//! [`gather`](crate::dispatch::gather) tells refused clients when to retry.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How long the work that waits will keep the workers busy, as the dispatcher estimates it.
#[derive(Debug, Default)]
pub struct Backlog(AtomicU64);

impl Backlog {
    /// The last estimate.
    pub fn read(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    /// A new one.
    pub fn set(&self, micros: u64) {
        self.0.store(micros, Ordering::Relaxed);
    }
}
