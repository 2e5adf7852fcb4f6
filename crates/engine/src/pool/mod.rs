//! The worker processes. Knows nothing of what they compute; the
//! [dispatcher](crate::dispatch::actor) owns the handles.
//!
//! - [`executable`]: the worker's file, opened once, and the environment it gets.
//! - [`keeper`]: a thread for each worker that starts it and waits for its end.
//! - [`ended`]: how a process ended.
//! - [`link`]: frames to and from one worker.

pub mod ended;
pub mod executable;
pub mod keeper;
pub mod link;

use std::time::Duration;

/// What the operator says about workers that end or do not go on.
#[derive(Clone, Copy, Debug)]
pub struct Supervision {
    /// How long a worker may be stopped before it is replaced.
    pub stopped_grace: Duration,
    /// How long a worker may take to get ready, and an idle one to answer a ping.
    pub start_timeout: Duration,
    /// How often one worker may be started again within a minute.
    pub restarts_max: u32,
}

/// The number of a worker, from 0.
pub type WorkerId = usize;

/// Which of a worker's processes something comes from: what an earlier one left behind in a
/// queue must not be taken for the present one's.
pub type Epoch = u64;
