//! The running update and its phase. A phase holds only its own data: while a step runs outside the
//! machine, that step owns its input until an event returns the result.

use std::{collections::VecDeque, time::Instant};

use onnxd_proto::generation::Generation;

use crate::models::machine::{
    events::{CallId, Job, Payload, Target},
    probation::Probation,
};
use crate::pool::WorkerId;

/// The running update.
#[derive(Debug)]
pub(super) struct Running<P: Payload> {
    pub update: Update<P>,
    pub phase: Phase<P>,
}

/// The part of an update that all phases share.
#[derive(Debug)]
pub(super) struct Update<P: Payload> {
    pub job: Job,
    pub origin: Origin<P>,
    /// Callers whose updates were superseded by this one.
    pub superseded: Vec<CallId>,
}

/// Why an update runs.
#[derive(Debug)]
pub(super) enum Origin<P: Payload> {
    /// A caller requested it.
    Call(CallId),
    /// A request needs the model, and nothing serves yet.
    FirstUse,
    /// A probation failed.
    Rollback(Probation<P::Version>),
}

/// The phase of the running update.
#[derive(Debug)]
pub(super) enum Phase<P: Payload> {
    /// The content is being fetched, or looked up in the state directory.
    Staging,
    /// The checker is trying the version.
    Checking(P::Version),
    /// The serving workers are being listed.
    ListingWorkers(Prepared<P>),
    /// Workers are loading the version, one at a time.
    Loading(Loading<P>),
    /// The indexes are being completed for the version.
    Indexing { prepared: Prepared<P>, ahead: bool },
    /// The version is prepared and awaits a decision.
    Proposed { version: P::Version, checked: P::Checked, ahead: bool },
    /// The generation is decided; its record is being written.
    Recording { generation: Generation, version: P::Version, ahead: bool },
    /// Requests admitted before an unload are being answered.
    Draining,
    /// Workers are dropping the model.
    Unloading,
}

/// A version that workers can load.
#[derive(Debug)]
pub(super) struct Prepared<P: Payload> {
    pub version: P::Version,
    pub progress: Progress<P>,
}

/// How far a prepared version got.
#[derive(Debug)]
pub(super) enum Progress<P: Payload> {
    /// It needs a number and a record.
    Checked(P::Checked),
    /// It has a number and a durable record.
    Durable(Generation, P::Record),
}

/// The state of loading ahead.
#[derive(Debug)]
pub(super) struct Loading<P: Payload> {
    pub prepared: Prepared<P>,
    /// The worker that is loading now.
    pub worker: WorkerId,
    /// When the update continues without that worker.
    pub deadline: Instant,
    pub rest: VecDeque<WorkerId>,
    /// Workers that served when loading began.
    pub of: usize,
    pub tally: LoadTally,
}

/// Counts the results of loading ahead.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LoadTally {
    /// Workers that loaded the version.
    pub loaded: usize,
    /// Workers that crashed or hung instead.
    pub crashed: usize,
    /// Workers that were killed from outside instead.
    pub killed: usize,
}

impl LoadTally {
    /// Returns the number of workers that exited, if the version is to blame. A single kill proves
    /// little; two in a row point to the version.
    pub(super) fn blames(self) -> Option<usize> {
        let exits = self.crashed + self.killed;
        (self.loaded == 0 && (self.crashed > 0 || self.killed > 1)).then_some(exits)
    }
}

/// What an aborted update leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftovers {
    Nothing,
    /// A version in the state directory.
    Version,
    /// A version in the state directory that workers have loaded.
    Loaded,
}

impl<P: Payload> Phase<P> {
    /// Returns what the update leaves behind if aborted now.
    pub(super) fn leftovers(&self) -> Leftovers {
        match self {
            Self::Staging | Self::Draining | Self::Unloading => Leftovers::Nothing,
            Self::Checking(_) | Self::ListingWorkers(_) => Leftovers::Version,
            Self::Loading(_) => Leftovers::Loaded,
            Self::Indexing { ahead, .. }
            | Self::Proposed { ahead, .. }
            | Self::Recording { ahead, .. } => Leftovers::after(*ahead),
        }
    }
}

impl Leftovers {
    /// Returns the leftovers after loading ahead, or without it.
    pub(super) fn after(ahead: bool) -> Self {
        if ahead { Self::Loaded } else { Self::Version }
    }
}

impl<P: Payload> Update<P> {
    /// Returns the caller that requested it, if any.
    pub(super) fn caller(&self) -> Option<CallId> {
        match self.origin {
            Origin::Call(caller) => Some(caller),
            Origin::FirstUse | Origin::Rollback(_) => None,
        }
    }

    /// Returns whether it serves an earlier generation's version again.
    pub(super) fn is_rollback(&self) -> bool {
        matches!(self.origin, Origin::Rollback(_))
            || matches!(self.job.target, Target::Generation(_))
    }
}
