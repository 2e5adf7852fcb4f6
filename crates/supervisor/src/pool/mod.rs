//! The worker processes.
//!
//! - [`executable`]: the worker's file, opened once, and the environment it gets.
//! - [`keeper`]: a thread for each worker that starts it and waits for its end.
//! - [`link`]: frames to and from one worker.
//! - [`state`]: pure: in which state a worker is, and when it is started again.

pub(crate) mod executable;
pub(crate) mod keeper;
pub(crate) mod link;
pub(crate) mod state;

/// The number of a worker, from 0.
pub(crate) type WorkerId = usize;

/// Which of a worker's processes something comes from: what an earlier one left behind in a
/// queue must not be taken for the present one's.
pub(crate) type Epoch = u64;
