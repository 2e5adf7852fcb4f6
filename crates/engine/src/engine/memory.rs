//! The memory that large request and response bodies may take together. Contracts reserve before
//! they read or write, and hold the reservation until the bytes are gone.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of all large bodies together.
pub const BUDGET_BYTES: usize = 512 << 20;
/// When a request that found no room may be tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Large bodies take all the memory there is for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the server is overloaded: large bodies take all the room there is")]
pub struct OutOfMemory;

impl OutOfMemory {
    /// When the request may be tried again.
    pub fn retry_after(self) -> Duration {
        RETRY_AFTER
    }
}

/// The memory budget of large bodies. Cheap to clone; clones share the budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Semaphore>);

/// A part of the budget. Dropping it returns the memory.
#[derive(Debug)]
pub struct Reservation(OwnedSemaphorePermit);

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::of(BUDGET_BYTES)
    }
}

impl MemoryBudget {
    /// A budget of `bytes`, counted in whole kibibytes.
    pub fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / 1024)))
    }

    /// Reserves memory for a body of `bytes`, if it is larger than `free_max`.
    ///
    /// # Errors
    /// Other large bodies take all the memory.
    pub fn reserve(
        &self,
        bytes: usize,
        free_max: usize,
    ) -> Result<Option<Reservation>, OutOfMemory> {
        if bytes <= free_max {
            return Ok(None);
        }
        let kibibytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let reserved = Arc::clone(&self.0).try_acquire_many_owned(kibibytes);
        reserved.map(|permit| Some(Reservation(permit))).map_err(|_| OutOfMemory)
    }

    /// Bytes that are not reserved.
    pub fn available_bytes(&self) -> usize {
        self.0.available_permits() * 1024
    }
}

impl Reservation {
    /// Adds another reservation of the same budget to this one.
    pub fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    /// Returns what exceeds `bytes` to the budget.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.0.num_permits().saturating_sub(bytes.div_ceil(1024));
        // What is split off is returned when it is dropped.
        drop(self.0.split(excess));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reserved_merged_shrunk_and_returned() {
        let budget = MemoryBudget::of(8 * 1024);
        assert!(budget.reserve(1024, 1024).unwrap().is_none());
        let mut first = budget.reserve(1025, 1024).unwrap().unwrap();
        assert_eq!(budget.available_bytes(), 6 * 1024);
        assert_eq!(budget.reserve(7 * 1024, 0).unwrap_err(), OutOfMemory);
        first.merge(budget.reserve(6 * 1024, 0).unwrap().unwrap());
        assert_eq!(budget.available_bytes(), 0);
        first.shrink_to(1);
        assert_eq!(budget.available_bytes(), 7 * 1024);
        drop(first);
        assert_eq!(budget.available_bytes(), 8 * 1024);
    }
}
