//! The words between an [update machine](crate::models::machine) and its driver: what can happen, and
//! what is to be done about it.

use std::fmt::Debug;

use onnxd_proto::{
    domain::{Load, Refusal, RefusalKind, SourceUri},
    generation::Generation,
};

use crate::pool::WorkerId;

/// The number of a caller that waits for an answer.
pub type CallId = u64;

/// What the machine moves from one step to the next. It looks into nothing but the digest of a
/// version, so tests can run it with text.
pub trait Payload: Debug {
    /// A version, equal to another with the same digest. It is not removed while a clone exists.
    type Version: AsRef<str> + Clone + Eq + Debug;
    /// What has to be checked.
    type Staged: Debug;
    /// What is known of a version that was checked and is kept.
    type Checked: Debug;
    /// The durable record of a generation.
    type Record: Debug;
}

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
    /// What this source holds, or the model's own source.
    Source(Option<SourceUri>),
    /// The version of this generation, or of the newest one that had another version.
    Generation(Option<Generation>),
    /// The version with this digest, which is kept: the way back from a failed probation.
    Version(String),
    /// What served last before the start, if the model's source is still the same, else the
    /// source: what is loaded at start or on first use.
    Last,
    /// None: the model is unloaded.
    Nothing,
}

impl Job {
    /// The content of a source, or of the model's own source.
    pub fn from_source(source: Option<SourceUri>, load: Load) -> Self {
        let target = Target::Source(source);
        Self { target, load, force: false, allow_dimension_change: false }
    }

    /// A content that is served whatever is known of it: it served before, or is asked for by name.
    pub fn unconditional(target: Target, load: Load) -> Self {
        Self { target, load, force: true, allow_dimension_change: true }
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
#[derive(Debug)]
pub enum Event<P: Payload> {
    /// Somebody asks for an update, or to have the model unloaded.
    Called(CallId, Job),
    /// Somebody needs the model to serve, whatever its content.
    Wanted(CallId, Load),
    /// The content stands in the state directory, or was found there.
    Staged(Result<Candidate<P>, Refusal>),
    /// The checker has spoken, and what it accepted is kept.
    Checked(Result<P::Checked, Refusal>),
    /// The workers that serve now, asked for before loading ahead.
    Workers(Vec<WorkerId>),
    /// Something happened to a worker.
    Worker(WorkerEvent),
    /// Whether the proposed version becomes a generation, and which.
    Decided(Decision),
    /// The record of the new generation is durable, or could not be written.
    Recorded(Result<P::Record, Refusal>),
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
    /// Nothing that is not decided yet shall be decided.
    Stopped(Stop),
}

/// Why no update is decided any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// onnxd stops.
    Stopping,
    /// A successor updates from now on.
    HandingOver,
}

impl Stop {
    /// What callers are told.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Stopping => RefusalKind::Busy.because("onnxd is stopping"),
            // The command line of release 0.1.0 recognizes this sentence, and asks the successor.
            Self::HandingOver => {
                RefusalKind::HandingOver.because("a successor takes over; ask again")
            }
        }
    }
}

/// What happened to a worker, as the dispatcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerEvent {
    /// It has loaded the version with this digest beside what it serves, or could not.
    Loaded(WorkerId, String, Result<(), String>),
    /// Its process ended; it starts again with what is committed.
    Ended(WorkerId, Cause),
    /// It was to load a version and does not serve at the moment.
    Absent(WorkerId),
    /// It failed because of what it was serving or loading, in this generation.
    Failed(Generation),
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
#[derive(Debug)]
pub struct Candidate<P: Payload> {
    /// The content.
    pub version: P::Version,
    /// Whether it failed its probation before.
    pub quarantined: bool,
    /// What has to be done before it can serve.
    pub content: Content<P>,
}

/// How far a version has come before this update.
#[derive(Debug)]
pub enum Content<P: Payload> {
    /// It has to be checked.
    Unchecked(P::Staged),
    /// It was checked and is kept.
    Checked(P::Checked),
    /// It was this generation when it served last, and is to be that again.
    Durable(Generation, P::Record),
}

/// A version that is prepared here, for whoever numbers generations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its digest.
    pub version: String,
    /// The last number that was ever given out here; the next is greater.
    pub after: Generation,
}

/// The number of the generation that a proposal becomes, or why it becomes none.
pub type Decision = Result<Generation, Refusal>;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<P: Payload> {
    /// Fetch the source, or find the version; answer [`Event::Staged`].
    Stage(Job),
    /// Check what was staged and keep it; answer [`Event::Checked`].
    Check(Job, P::Staged),
    /// Answer [`Event::Workers`].
    AskWorkers,
    /// Ask this worker to load the version; answer [`WorkerEvent::Loaded`].
    LoadAhead(WorkerId, P::Version),
    /// Tell a caller how many workers have loaded its version.
    Loaded {
        /// Who asked for the update.
        caller: CallId,
        /// The worker that has just loaded it.
        worker: WorkerId,
        /// Workers that have.
        done: usize,
        /// Workers that were there when loading began.
        of: usize,
    },
    /// The version is prepared: ask for a decision; answer [`Event::Decided`].
    Propose(Proposal),
    /// It is decided: write the record; answer [`Event::Recorded`].
    Record(Generation, P::Version, P::Checked),
    /// The one store: from now on this generation is served.
    Commit {
        /// Its number.
        generation: Generation,
        /// What it is.
        record: P::Record,
        /// Whether workers loaded it ahead, and idle ones can follow at once.
        ahead: bool,
    },
    /// Tell a caller how it ended.
    Answer(CallId, Result<Committed, Refusal>),
    /// Refuse the version with this digest from now on.
    Quarantine(String),
    /// Say that the machine goes back by itself.
    AnnounceRollback {
        /// What failed.
        from: Generation,
        /// The digest of what served before.
        to: String,
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
    /// Remove versions that nothing needs any more.
    Retire,
}

/// What a caller learns of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What serves now; 0 is none.
    pub generation: Generation,
    /// The digest of its content, or of what it was.
    pub version: String,
    /// What served before; 0 is none.
    pub previous: Generation,
    /// When workers load it.
    pub load: Load,
}
