//! The update that runs and how far it is. A phase has exactly the data that belongs to it; what a step
//! outside of the machine works with is with that step until its event brings the result.

use std::{collections::VecDeque, time::Instant};

use onnxd_proto::generation::Generation;

use crate::models::machine::{
    events::{CallId, Job, Payload},
    probation::Probation,
};
use crate::pool::WorkerId;

/// The update that runs.
#[derive(Debug)]
pub(super) struct Running<P: Payload> {
    pub update: Update<P>,
    pub phase: Phase<P>,
}

/// What stays the same through all phases.
#[derive(Debug)]
pub(super) struct Update<P: Payload> {
    pub job: Job,
    pub origin: Origin<P>,
    /// Callers whose updates this one superseded.
    pub superseded: Vec<CallId>,
}

/// Why an update runs.
#[derive(Debug)]
pub(super) enum Origin<P: Payload> {
    /// A caller asked for it.
    Call(CallId),
    /// The model is wanted, and nothing serves.
    FirstUse,
    /// This probation failed.
    Rollback(Probation<P::Version>),
}

/// How far the running update is.
#[derive(Debug)]
pub(super) enum Phase<P: Payload> {
    /// The content is being fetched or looked for.
    Staging,
    /// The checker tries the version.
    Checking(P::Version),
    /// The serving workers are asked for.
    AskingWorkers(Prepared<P>),
    /// Workers load the version, one after the other.
    Loading(Loading<P>),
    /// The version is prepared, and a decision is waited for.
    Proposed { version: P::Version, checked: P::Checked, ahead: bool },
    /// It is decided: the record is being written.
    Recording { generation: Generation, version: P::Version, ahead: bool },
    /// What was admitted before an unload is being answered.
    Draining,
    /// Workers drop what they have.
    Unloading,
}

/// A version that can be loaded.
#[derive(Debug)]
pub(super) struct Prepared<P: Payload> {
    pub version: P::Version,
    pub known: Known<P>,
}

/// What is known of it.
#[derive(Debug)]
pub(super) enum Known<P: Payload> {
    /// It needs a number and a record.
    Checked(P::Checked),
    /// It has both.
    Durable(Generation, P::Record),
}

/// Loading ahead.
#[derive(Debug)]
pub(super) struct Loading<P: Payload> {
    pub prepared: Prepared<P>,
    /// Who is asked now.
    pub worker: WorkerId,
    /// When the update goes on without it.
    pub deadline: Instant,
    pub rest: VecDeque<WorkerId>,
    /// Workers that were there when loading began.
    pub of: usize,
    pub so_far: LoadedSoFar,
}

/// How workers that were asked to load ahead have fared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LoadedSoFar {
    /// Workers that have loaded the version.
    pub loaded: usize,
    /// Workers that ended instead by a fault.
    pub ended: usize,
    /// Workers that somebody ended instead.
    pub killed: usize,
}

impl LoadedSoFar {
    /// Workers that ended instead, if the version is to blame: one that is killed says little, two
    /// in a row were killed because of what they loaded.
    pub(super) fn blames(self) -> Option<usize> {
        let ends = self.ended + self.killed;
        (self.loaded == 0 && (self.ended > 0 || self.killed > 1)).then_some(ends)
    }
}

/// What an update that is given up leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// A version in the state directory.
    Version,
    /// A version that workers have loaded, too.
    Loaded,
}

impl<P: Payload> Phase<P> {
    /// What is left behind if the update is given up now.
    pub(super) fn left(&self) -> Left {
        match self {
            Self::Staging | Self::Draining | Self::Unloading => Left::Nothing,
            Self::Checking(_) | Self::AskingWorkers(_) => Left::Version,
            Self::Loading(_) => Left::Loaded,
            Self::Proposed { ahead, .. } | Self::Recording { ahead, .. } => Left::after(*ahead),
        }
    }
}

impl Left {
    /// After workers were asked to load ahead, or not.
    pub(super) fn after(ahead: bool) -> Self {
        if ahead { Self::Loaded } else { Self::Version }
    }
}

impl<P: Payload> Update<P> {
    /// Who asked for it, if a caller did.
    pub(super) fn caller(&self) -> Option<CallId> {
        match self.origin {
            Origin::Call(caller) => Some(caller),
            Origin::FirstUse | Origin::Rollback(_) => None,
        }
    }
}
