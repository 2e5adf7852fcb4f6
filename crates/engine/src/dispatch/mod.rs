//! From an accepted request to the worker that computes it, and back.
//!
//! - [`scheduler`]: pure: one queue, and which items go to the next free worker together.
//! - [`estimate`]: pure: how much work a text is, before it is tokenized.
//! - [`alone`]: pure: when idle workers' CPUs help with a text.
//! - [`dispatcher`]: the task that owns the queue and the workers.
//! - [`queue`]: what it does with what waits.
//! - [`endings`]: when a worker is over, and what follows.
//! - [`poison`]: what is refused because it took workers with it.
//! - [`recycle`]: who is started again because it uses too much memory.
//! - [`health`]: whether there are workers to answer, for all who have to know.
//! - [`hangs`]: what it does about groups that take too long and workers that are stopped.
//! - [`loads`]: what workers load and drop apart from their groups; [`workers`]: how updates ask for it.
//! - [`messages`]: what it does with what a worker says.
//! - [`measure`]: what it tells the metrics.
//! - [`worker`]: what the dispatcher knows of one worker; [`groups`]: of what it has to compute.
//! - [`free`]: who may get a group.
//! - [`gather`]: what a handler calls: hands inputs in, waits, and sees to it that one response
//!   has one generation.

mod alone;
pub mod dispatcher;
mod endings;
pub mod estimate;
mod free;
pub mod gather;
mod groups;
mod hangs;
pub mod health;
mod loads;
mod measure;
mod messages;
mod poison;
mod queue;
mod recycle;
pub mod scheduler;
pub mod worker;
pub mod workers;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use onnxd_proto::{
    control_page::Slot,
    domain::tensor::TensorHead,
    generation::Generation,
    wire::ask::{Ask, Rejection},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::pool::{Epoch, WorkerId, keeper::Report, link::Incoming};

/// Everything that happens to the dispatcher.
#[derive(Debug)]
pub enum Event {
    /// Items of one request, all for the same model.
    Submitted(Vec<Item>),
    /// A keeper has started its process, or the process has ended.
    Kept(WorkerId, Epoch, Report),
    /// A message of a worker, or the end of its socket.
    Arrived(WorkerId, Epoch, io::Result<Incoming>),
    /// Somebody wants to know how things are.
    StatusAsked(oneshot::Sender<Vec<worker::Status>>),
    /// A line of updates wants to know which workers serve.
    WorkersAsked(oneshot::Sender<Vec<WorkerId>>),
    /// A worker is to load a version beside what it serves.
    LoadAhead(WorkerId, Slot, String),
    /// What workers have loaded ahead of a model is not wanted any more.
    Forget(Slot),
    /// Nothing of a model is committed any more; answered when all serving workers have dropped
    /// what they had of it.
    Unload(Slot, oneshot::Sender<()>),
    /// What was loaded ahead is committed: idle workers need not wait for a request to follow.
    Committed,
    /// The watchdog wants a sign of life of any worker.
    ProbeAsked(oneshot::Sender<()>),
    /// No new requests come; end the workers when they have answered.
    Drain,
}

/// Who a request is for. Background work never delays interactive work by more than one micro-batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A client waits for the answer.
    #[default]
    Interactive,
    /// Nobody waits: re-embedding, warming, checking.
    Background,
}

/// On what terms a request is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// How long it may take, where it says so itself; the server's own limit holds as well.
    pub timeout: Option<Duration>,
    /// Who it is for.
    pub priority: Priority,
}

/// One item on its way through the queue. Dropping it answers nobody: its handler sees that.
#[derive(Debug)]
pub struct Item {
    /// The model's slot.
    pub slot: Slot,
    /// What is asked, and of what.
    pub input: Input,
    /// Its place in the request.
    pub index: usize,
    /// When it was handed in.
    pub queued_at: Instant,
    /// When its client is told that it took too long.
    pub deadline: Instant,
    /// Who it is for.
    pub priority: Priority,
    /// Whether all items of the request must be computed in one group.
    pub together: bool,
    /// Where the answer goes; closed when the client has gone.
    pub reply: mpsc::Sender<(usize, Result<Answered, ItemError>)>,
    /// The request's places in the bounded queue, given back when all of it is dropped.
    pub _permit: Arc<OwnedSemaphorePermit>,
}

/// What a request asks of one of its inputs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Input {
    /// What is to be done.
    pub ask: Ask,
    /// With what: the item's payload, which may lie in several places.
    pub parts: Vec<Bytes>,
}

impl Input {
    /// Bytes of the payload.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

/// How long the work that waits will keep the workers busy, as the dispatcher estimates it.
#[derive(Debug, Default)]
pub struct Backlog(AtomicU64);

impl Backlog {
    /// The last estimate.
    pub fn read(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    /// A new one.
    pub fn set(&self, micros: u64) {
        self.0.store(micros, Ordering::Relaxed);
    }
}

/// The answer to one item.
#[derive(Clone, Debug)]
pub struct Answered {
    /// What made it.
    pub generation: Generation,
    /// Numbers, text or tensors, as was asked.
    pub bytes: Bytes,
    /// The tensors that these are.
    pub outputs: Vec<TensorHead>,
    /// Tokens that were computed.
    pub tokens: u32,
    /// How long it took.
    pub timing: Timing,
}

/// Where the time of an item, or the longest of a request's items, went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From the queue to a worker.
    pub queue: Duration,
    /// Tokenizing its group.
    pub tokenize: Duration,
    /// ONNX Runtime and what follows for its micro-batch.
    pub infer: Duration,
}

/// Why an item has no answer.
#[derive(Clone, Debug)]
pub enum ItemError {
    /// The worker's word.
    Rejected(Rejection),
    /// Too many workers ended while they computed it.
    Poisonous,
    /// No worker is left.
    Stopped,
}
