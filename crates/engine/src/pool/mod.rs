//! The worker processes. Knows nothing about what they compute; the
//! [dispatcher](crate::dispatch::actor) owns the handles.
//!
//! - [`executable`]: the worker's executable, opened once, and its environment.
//! - [`process_monitor`]: one thread per worker that starts the process and waits for it to exit.
//! - [`process_exit`]: how a process ended; [`oom`]: whether memory ran out.
//! - [`link`]: frames to and from one worker.

pub mod executable;
pub mod link;
pub mod oom;
pub mod process_exit;
pub mod process_monitor;

use std::time::Duration;

/// The operator's settings for workers that exit, stop or hang.
#[derive(Clone, Copy, Debug)]
pub struct Supervision {
    /// How long a worker may stay stopped before it is replaced.
    pub stopped_grace: Duration,
    /// How long a worker may take to become ready, and an idle one to answer a ping.
    pub start_timeout: Duration,
    /// How many times one worker may be restarted within a minute.
    pub restarts_max: u32,
}

/// The index of a worker, from 0.
pub type WorkerId = usize;

/// Identifies one of a worker's successive processes, so that queued reports of an earlier one are
/// not attributed to the current one.
pub type Epoch = u64;
