//! The words between a [`machine`](crate::models::machine) of updates and its [`driver`](crate::models::update::driver): what
//! can happen, and what is to be done about it.

use std::path::PathBuf;

use onnxd_proto::{domain::Refusal, generation::Generation};

use crate::pool::WorkerId;
use onnxd_proto::domain::Load;

/// The number of a caller that waits for an answer.
pub type CallId = u64;
/// A version: the digest of its manifest.
pub type Version = String;

/// What is to become of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Which content.
    pub target: Target,
    /// When workers load it.
    pub load: Load,
    /// Also a version that failed its probation before.
    pub force: bool,
    /// Also a version whose embeddings have another dimension.
    pub allow_dimension_change: bool,
}

/// Which content a job is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// What is in this directory, or in the model's own source.
    Source(Option<PathBuf>),
    /// The version of this generation, or of the newest one that had another version.
    Generation(Option<Generation>),
    /// A version that is kept: the way back from a failed probation.
    Version(Version),
    /// What served last before the start, if the model's source is still the same, else the
    /// source: what is loaded at start or on first use.
    Last,
    /// None: the model is unloaded.
    Nothing,
}

impl Job {
    /// The content of a directory, or of the model's own source.
    pub fn from_source(directory: Option<PathBuf>, load: Load) -> Self {
        let target = Target::Source(directory);
        Self { target, load, force: false, allow_dimension_change: false }
    }

    /// No content at all.
    pub fn unload() -> Self {
        let (target, load) = (Target::Nothing, Load::Lazy);
        Self { target, load, force: false, allow_dimension_change: false }
    }

    /// Whether the model is to be unloaded.
    pub(super) fn is_unload(&self) -> bool {
        self.target == Target::Nothing
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody asks for an update, or to have the model unloaded.
    Called(CallId, Job),
    /// Somebody needs the model to serve, whatever its content.
    Wanted(CallId, Load),
    /// The content stands in the state directory, or was found there.
    Staged(Result<Candidate, Refusal>),
    /// The checker has spoken, and what it accepted is kept.
    Checked(Result<(), Refusal>),
    /// The workers that serve now, asked for before loading ahead.
    Workers(Vec<WorkerId>),
    /// A worker has loaded the version beside what it serves, or could not.
    Loaded(WorkerId, Version, Result<(), String>),
    /// A worker's process ended; it starts again with what is committed.
    WorkerEnded(WorkerId, Cause),
    /// A worker that was to load the version does not serve at the moment.
    WorkerAbsent(WorkerId),
    /// A worker failed because of what it was serving or loading, in this generation.
    WorkerFailed(Generation),
    /// The record of the new generation is durable, or could not be written.
    Recorded(Result<(), Refusal>),
    /// What the model had accepted before it was to be unloaded is answered.
    Drained,
    /// Workers have dropped what they had of the model.
    Unloaded,
    /// Time has passed.
    Ticked,
    /// Nothing new shall begin; what runs goes on.
    Held,
    /// It may again, as far as that is up to one who held it.
    Resumed,
    /// Nothing that is not decided yet shall be decided, for the reason that callers are told.
    Stopped(&'static str),
}

/// What ended a worker's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A fault of its own, or that it hung.
    Fault,
    /// Somebody else: an administrator, or the kernel for want of memory.
    Killed,
}

/// What staging found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The content.
    pub version: Version,
    /// Whether it still has to be checked.
    pub unchecked: bool,
    /// Whether it failed its probation before.
    pub quarantined: bool,
    /// The generation that it was when it served last, where it is to be that again.
    pub durable: Option<Generation>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Copy the source, or find the version; answer [`Event::Staged`].
    Stage(Job),
    /// Check what was staged and keep it; answer [`Event::Checked`].
    Check(Job),
    /// Answer [`Event::Workers`].
    AskWorkers,
    /// Ask this worker to load the version; answer [`Event::Loaded`].
    LoadAhead(WorkerId, Version),
    /// Write the record; answer [`Event::Recorded`].
    Record(Generation, Version),
    /// The one store: from now on this generation is served.
    Commit(Generation),
    /// Tell a caller how it ended.
    Answer(CallId, Result<Committed, Refusal>),
    /// Refuse this version from now on.
    Quarantine(Version),
    /// Say that the machine goes back by itself.
    AnnounceRollback {
        /// What failed.
        from: Generation,
        /// What served before.
        to: Version,
    },
    /// The machine could not go back by itself; the version that failed serves on.
    RollbackFailed(Refusal),
    /// What workers have loaded ahead is not needed.
    Forget,
    /// Admit nothing more, and wait for what was admitted; answer [`Event::Drained`].
    Drain,
    /// From now on nothing is served; have workers drop what they have, and answer
    /// [`Event::Unloaded`].
    Unload,
    /// What was staged is not needed any more.
    Discard,
}

/// What a caller learns of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What serves now; 0 is none.
    pub generation: Generation,
    /// Its content, or what it was.
    pub version: Version,
    /// What served before; 0 is none.
    pub previous: Generation,
    /// When workers load it.
    pub load: Load,
}
