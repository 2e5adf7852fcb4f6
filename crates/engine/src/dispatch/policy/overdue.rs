//! How long the dispatcher waits for a worker. A group is terminated when the deadline of one of
//! its items passes. A worker is killed after a grace period if it ignores that, is stopped, does
//! not become ready or does not answer a ping. Another worker then computes what clients still wait
//! for.

use std::time::{Duration, Instant};

use onnxd_telemetry::metrics::KillReason;

use crate::pool::Supervision;

/// How long a worker may take to end a group after it was told to terminate it.
const TERMINATE_GRACE: Duration = Duration::from_secs(1);
/// How long to keep reading a worker's messages after it exited. They are already in memory, so
/// only a stalled reader takes longer.
pub(crate) const READ_GRACE: Duration = Duration::from_secs(1);

/// Something that a worker must do in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// Its current group has an item with this deadline.
    Group(Instant),
    /// It was told to terminate its current group at this time.
    Terminated(Instant),
    /// Its process was stopped at this time.
    Stopped(Instant),
    /// Its process was started at this time and is not ready.
    Starting(Instant),
    /// It was sent a ping at this time and is idle.
    Pinged(Instant),
}

impl Overdue {
    /// Returns when the dispatcher must act.
    pub(crate) fn at(self, supervision: &Supervision) -> Instant {
        match self {
            Self::Group(deadline) => deadline,
            Self::Terminated(at) => at + TERMINATE_GRACE,
            Self::Stopped(since) => since + supervision.stopped_grace,
            Self::Starting(since) | Self::Pinged(since) => since + supervision.start_timeout,
        }
    }
}

/// The action for an overdue worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Check the current group for passed deadlines.
    Terminate,
    /// Kill the worker.
    Kill(KillReason),
}
