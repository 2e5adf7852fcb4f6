//! How long the dispatcher waits for a worker. A group of which an item's deadline has passed is
//! terminated; a worker that does not obey, is stopped, does not become ready or does not answer is
//! killed after a grace period, and another computes what clients still wait for.

use std::time::{Duration, Instant};

use onnxd_telemetry::metrics::KillReason;

use crate::pool::Supervision;

/// How long a worker may take to end a group that it was told to terminate.
const TERMINATE_GRACE: Duration = Duration::from_secs(1);
/// How long what a worker wrote is read after its end: it lies in memory, so that only a reader
/// which hangs takes longer.
pub(crate) const READ_GRACE: Duration = Duration::from_secs(1);

/// What is expected of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// An item of what it computes has a deadline.
    Group(Instant),
    /// It was told to terminate what it computes.
    Terminated(Instant),
    /// Its process is stopped.
    Stopped(Instant),
    /// Its process was started and is not ready.
    Starting(Instant),
    /// It has nothing to do and was sent a ping.
    Pinged(Instant),
}

impl Overdue {
    /// When something has to be done about it.
    pub(crate) fn at(self, supervision: &Supervision) -> Instant {
        match self {
            Self::Group(deadline) => deadline,
            Self::Terminated(at) => at + TERMINATE_GRACE,
            Self::Stopped(since) => since + supervision.stopped_grace,
            Self::Starting(since) | Self::Pinged(since) => since + supervision.start_timeout,
        }
    }
}

/// What is to be done about a worker that is overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Look for passed deadlines in the group that it computes.
    Terminate,
    /// Kill it.
    Kill(KillReason),
}
