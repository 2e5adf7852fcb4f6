//! The memory budget shared by large request and response bodies. Contracts reserve before they
//! read or write, and keep the reservation until the bytes are freed.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum bytes of all large bodies together.
pub const BUDGET_BYTES: usize = 512 << 20;
/// When a request without room may be retried.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// There is not enough memory for a large body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OutOfMemory {
    /// Other large bodies have used up the budget.
    #[error("the server is overloaded: the memory for large bodies is used up")]
    UsedUp,
    /// The body does not even fit an unused budget.
    #[error(
        "the request or its response needs {bytes} bytes, but all large bodies together may have {limit}; \
         send less at once, or raise the server's --body-memory"
    )]
    TooLarge {
        /// What the body needs.
        bytes: usize,
        /// The whole budget.
        limit: usize,
    },
}

impl OutOfMemory {
    /// Returns when the request may be retried, if that can help.
    pub fn retry_after(self) -> Option<Duration> {
        (self == Self::UsedUp).then_some(RETRY_AFTER)
    }
}

/// The memory budget for large bodies. Cheap to clone; clones share the budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    /// One permit per kibibyte.
    permits: Arc<Semaphore>,
    kibibytes: usize,
}

/// A reserved part of the budget. Dropping it releases the memory.
#[derive(Debug)]
pub struct Reservation(OwnedSemaphorePermit);

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(BUDGET_BYTES)
    }
}

impl MemoryBudget {
    /// Creates a budget of `bytes`, counted in whole kibibytes.
    pub fn new(bytes: usize) -> Self {
        let kibibytes = bytes / 1024;
        Self { permits: Arc::new(Semaphore::new(kibibytes)), kibibytes }
    }

    /// Reserves memory for a body of `bytes` if it is larger than `free_max`.
    ///
    /// # Errors
    /// The body is larger than the whole budget, or other large bodies have used it up.
    pub fn reserve(
        &self,
        bytes: usize,
        free_max: usize,
    ) -> Result<Option<Reservation>, OutOfMemory> {
        if bytes <= free_max {
            return Ok(None);
        }
        if bytes.div_ceil(1024) > self.kibibytes {
            return Err(OutOfMemory::TooLarge { bytes, limit: self.limit_bytes() });
        }
        let kibibytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let reserved = Arc::clone(&self.permits).try_acquire_many_owned(kibibytes);
        reserved.map(|permit| Some(Reservation(permit))).map_err(|_| OutOfMemory::UsedUp)
    }

    /// Returns the number of bytes that are not reserved.
    pub fn available_bytes(&self) -> usize {
        self.permits.available_permits() * 1024
    }

    /// Returns the size of the budget.
    pub fn limit_bytes(&self) -> usize {
        self.kibibytes * 1024
    }
}

impl Reservation {
    /// Merges another reservation of the same budget into this one.
    pub fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }

    /// Releases everything above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let excess = self.0.num_permits().saturating_sub(bytes.div_ceil(1024));
        // Dropping the split-off part releases it.
        drop(self.0.split(excess));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reserved_merged_shrunk_and_returned() {
        let budget = MemoryBudget::new(8 * 1024 + 1);
        assert_eq!(budget.limit_bytes(), 8 * 1024);
        assert!(budget.reserve(1024, 1024).unwrap().is_none());
        let mut first = budget.reserve(1025, 1024).unwrap().unwrap();
        assert_eq!(budget.available_bytes(), 6 * 1024);
        assert_eq!(budget.reserve(7 * 1024, 0).unwrap_err(), OutOfMemory::UsedUp);
        let too_large = OutOfMemory::TooLarge { bytes: 8 * 1024 + 1, limit: 8 * 1024 };
        assert_eq!(budget.reserve(8 * 1024 + 1, 0).unwrap_err(), too_large);
        assert_eq!(too_large.retry_after(), None);
        first.merge(budget.reserve(6 * 1024, 0).unwrap().unwrap());
        assert_eq!(budget.available_bytes(), 0);
        first.shrink_to(1);
        assert_eq!(budget.available_bytes(), 7 * 1024);
        drop(first);
        assert_eq!(budget.available_bytes(), 8 * 1024);
    }
}
