//! Groups that take too long and workers that do not go on. A group of which an item's deadline has
//! passed is terminated; a worker that does not obey, that somebody stopped, that does not get ready or
//! does not answer is killed after a grace, and what clients still wait for is computed by another.

use std::time::{Duration, Instant};

use crate::pool::Supervision;

/// How long a worker may take to end a group that it was told to terminate.
const TERMINATE_GRACE: Duration = Duration::from_secs(1);

/// What the dispatcher waits for of one worker.
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
