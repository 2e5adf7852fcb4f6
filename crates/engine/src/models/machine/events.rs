//! Events and actions: the protocol between an [update machine](crate::models::machine) and its
//! driver.

use std::fmt::Debug;

use onnxd_proto::{
    domain::{Load, Refusal, RefusalKind, SourceUri},
    generation::Generation,
};

use crate::{models::requester::Requester, pool::WorkerId};

/// Identifies a caller waiting for an answer.
pub type CallId = u64;

/// The data that the machine passes from one step to the next. The machine reads only a version's
/// digest, so tests can use strings.
pub trait Payload: Debug {
    /// A version. Versions with the same digest are equal; none is removed while a clone exists.
    type Version: AsRef<str> + Clone + Eq + Debug;
    /// Staged content that needs a check.
    type Staged: Debug;
    /// The facts of a version that was checked and kept.
    type Checked: Debug;
    /// The durable record of a generation.
    type Record: Debug;
}

/// An update or unload of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The content to serve.
    pub target: Target,
    /// When workers load it.
    pub load: Load,
    /// Accepts a version that failed its probation before, or lacks files of the serving version.
    pub force: bool,
    /// Accepts a version whose embeddings have another dimension.
    pub allow_dimension_change: bool,
    /// The version's vectors are in the space of the serving version's, so those can be kept.
    pub reuse_index: bool,
    /// The origin of the request.
    pub requester: Requester,
    /// The version that a poll saw before. It is not served again, even if another one serves since.
    pub seen: Option<String>,
}

/// The content a job asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The content of this source, or of the model's configured source.
    Source(Option<SourceUri>),
    /// The version of this generation; `None` means the newest generation with another version.
    Generation(Option<Generation>),
    /// The kept version with this digest: the target of an automatic rollback.
    Version(String),
    /// The version that served last before the start if the model's source is unchanged, else the
    /// content of the source. Loaded at start or on first use.
    Last,
    /// No content: unloads the model.
    Nothing,
}

impl Job {
    /// Returns a job for the content of a source, or of the model's configured source.
    pub fn from_source(source: Option<SourceUri>, load: Load) -> Self {
        Self::new(Target::Source(source), load)
    }

    fn new(target: Target, load: Load) -> Self {
        Self {
            target,
            load,
            force: false,
            allow_dimension_change: false,
            reuse_index: false,
            requester: Requester::default(),
            seen: None,
        }
    }

    /// Returns a job that skips the quarantine and dimension checks: the content served before, or
    /// was requested by name.
    pub fn unconditional(target: Target, load: Load) -> Self {
        let requester = Requester::Server;
        Self { force: true, allow_dimension_change: true, requester, ..Self::new(target, load) }
    }

    /// Returns a job that unloads the model.
    pub fn unload() -> Self {
        Self::new(Target::Nothing, Load::Lazy)
    }

    /// Returns whether the job unloads the model.
    pub(super) fn is_unload(&self) -> bool {
        self.target == Target::Nothing
    }
}

/// An input of the machine.
#[derive(Debug)]
pub enum Event<P: Payload> {
    /// A caller requested an update or an unload.
    Called(CallId, Job),
    /// A caller needs the model to serve, with any content.
    LoadRequested(CallId, Load),
    /// The content was staged, or was already in the state directory.
    Staged(Result<Candidate<P>, Refusal>),
    /// The checker finished; an accepted version is kept.
    Checked(Result<P::Checked, Refusal>),
    /// The workers that serve now; answers [`Action::ListWorkers`].
    Workers(Vec<WorkerId>),
    /// A worker event.
    Worker(WorkerEvent),
    /// The indexes of the model are complete for the version, or cannot be; answers
    /// [`Action::Index`].
    Indexed(Result<(), Refusal>),
    /// The coordinator assigned a generation to the proposed version, or refused it.
    Decided(Decision),
    /// The new generation's record is durable, or writing it failed.
    Recorded(Result<P::Record, Refusal>),
    /// Every request admitted before the unload is answered.
    Drained,
    /// Workers dropped everything they held of the model.
    Unloaded,
    /// The [deadline](super::UpdateMachine::deadline) passed.
    Ticked,
    /// Start no new update. One that is being staged waits again; one that got further continues.
    Paused,
    /// Releases one [`Event::Paused`].
    Resumed,
    /// Abort every update that is not decided yet.
    Stopped(Stop),
}

/// Why no further update is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// onnxd is stopping.
    Stopping,
    /// A successor takes over updates.
    HandingOver,
}

impl Stop {
    /// Returns the refusal for waiting callers.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Stopping => RefusalKind::Busy.because("onnxd is stopping"),
            // Keep this text: the command line of release 0.1.0 matches it and then retries with
            // the successor.
            Self::HandingOver => {
                RefusalKind::HandingOver.because("a successor takes over; ask again")
            }
        }
    }
}

/// An event of a worker, as seen by the dispatcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerEvent {
    /// The worker loaded the version with this digest ahead, or failed to.
    Loaded(WorkerId, String, Result<(), String>),
    /// The worker's process exited; its next process loads the committed version.
    Exited(WorkerId, Cause),
    /// The worker was asked to load ahead but does not serve at the moment.
    Absent(WorkerId),
    /// The worker failed while serving or loading this generation.
    Failed(Generation),
}

/// Why a worker's process exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It crashed or hung.
    Fault,
    /// It was killed from outside: by an administrator, or by the kernel when memory ran out.
    Killed,
}

/// The result of staging.
#[derive(Debug)]
pub struct Candidate<P: Payload> {
    /// The content.
    pub version: P::Version,
    /// Whether the version failed its probation before.
    pub quarantined: bool,
    /// The work left before it can serve.
    pub content: Content<P>,
}

/// How far a version got before this update.
#[derive(Debug)]
pub enum Content<P: Payload> {
    /// It needs a check.
    Unchecked(P::Staged),
    /// It was checked and kept.
    Checked(P::Checked),
    /// It served last as this generation, and will serve under the same number again.
    Durable(Generation, P::Record),
}

/// A prepared version, offered to the coordinator that numbers generations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its digest.
    pub version: String,
    /// The highest number ever issued here; the next one must be greater.
    pub after: Generation,
}

/// The generation number assigned to a proposal, or the reason for refusing it.
pub type Decision = Result<Generation, Refusal>;

/// An order of the machine to its driver.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<P: Payload> {
    /// Fetch the source, or find the version. Answered by [`Event::Staged`].
    Stage(Job),
    /// Stop the running step, whose result is no longer expected.
    AbortStep,
    /// Check the staged content and keep it. Answered by [`Event::Checked`].
    Check(Job, P::Staged),
    /// List the serving workers. Answered by [`Event::Workers`].
    ListWorkers,
    /// Ask this worker to load the version. Answered by [`WorkerEvent::Loaded`].
    LoadAhead(WorkerId, P::Version),
    /// Tell a caller how many workers have loaded its version.
    Loaded {
        /// The caller that requested the update.
        caller: CallId,
        /// The worker that just loaded the version.
        worker: WorkerId,
        /// Workers that have loaded it so far.
        done: usize,
        /// Workers that served when loading began.
        of: usize,
    },
    /// Complete the model's indexes for the version, and hold back writes until the commit or the end
    /// of the update. Answered by [`Event::Indexed`].
    Index(Job, P::Version),
    /// The version is prepared: ask for a decision. Answered by [`Event::Decided`].
    Propose(Proposal),
    /// The generation is decided: write its record. Answered by [`Event::Recorded`].
    Record(Generation, P::Version, P::Checked),
    /// Publish the generation, which serves from now on.
    Commit {
        /// Its number.
        generation: Generation,
        /// Its record.
        record: P::Record,
        /// Whether workers loaded it ahead, so that idle ones can switch at once.
        ahead: bool,
    },
    /// Tell a caller the outcome.
    Answer(CallId, Result<Committed, Refusal>),
    /// Refuse the version with this digest from now on.
    Quarantine(String),
    /// Announce an automatic rollback.
    AnnounceRollback {
        /// The generation that failed.
        from: Generation,
        /// The digest of the version that served before.
        to: String,
    },
    /// The automatic rollback failed; the faulty version keeps serving.
    RollbackFailed(Refusal),
    /// Make workers drop what they loaded ahead.
    DropLoadedAhead,
    /// Admit no more requests and wait for those in flight. Answered by [`Event::Drained`].
    Drain,
    /// Stop serving and make workers drop everything they hold of the model. Answered by
    /// [`Event::Unloaded`].
    Unload,
    /// Remove versions that are no longer needed.
    Retire {
        /// Whether their indexes go as well. Those of an update that failed stay, so that the next
        /// attempt goes on there.
        with_indexes: bool,
    },
}

/// The outcome of a commit or unload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The serving generation; 0 if none.
    pub generation: Generation,
    /// The digest of its version or, after an unload, of the unloaded version.
    pub version: String,
    /// The generation that served before; 0 if none.
    pub previous: Generation,
    /// When workers load it.
    pub load: Load,
}
