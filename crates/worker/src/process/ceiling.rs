//! A lower limit on memory for a while: what would need more fails to allocate, and is told so,
//! where the process would be ended otherwise.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Holds the limit; dropping it brings the earlier one back.
#[derive(Debug)]
pub(crate) struct Ceiling {
    before: Rlimit,
}

impl Ceiling {
    /// Limits memory that is no file's to `bytes`. `None` where the limit is lower already or
    /// cannot be set; then what the process may use otherwise holds.
    pub(crate) fn lower(bytes: u64) -> Option<Self> {
        let before = getrlimit(Resource::Data);
        let is_lower = before.current.is_none_or(|current| bytes < current);
        let lowered = Rlimit { current: Some(bytes), maximum: before.maximum };
        (is_lower && setrlimit(Resource::Data, lowered).is_ok()).then_some(Self { before })
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        // It never was more than the process may set.
        let _ = setrlimit(Resource::Data, self.before);
    }
}
