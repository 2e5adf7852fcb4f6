//! A temporary memory limit. Allocations beyond it fail with an error, where the process would be
//! killed otherwise.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Holds the limit; dropping it restores the previous one.
#[derive(Debug)]
pub(crate) struct Ceiling {
    before: Rlimit,
}

impl Ceiling {
    /// Limits anonymous memory to `bytes`. Returns `None` if the limit is already lower or cannot
    /// be set; the previous limit then stays.
    pub(crate) fn lower(bytes: u64) -> Option<Self> {
        let before = getrlimit(Resource::Data);
        let is_lower = before.current.is_none_or(|current| bytes < current);
        let lowered = Rlimit { current: Some(bytes), maximum: before.maximum };
        (is_lower && setrlimit(Resource::Data, lowered).is_ok()).then_some(Self { before })
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // Cannot fail: it restores a limit that was in force.
        let _ = setrlimit(Resource::Data, self.before);
    }
}
