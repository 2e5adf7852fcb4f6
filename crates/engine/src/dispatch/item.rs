//! An item is one input of a request on its way through the queue. Created by
//! [`gather`](crate::dispatch::gather) and owned by the [actor](crate::dispatch::actor).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use onnxd_proto::{
    control_page::Slot,
    domain::tensor::TensorHead,
    generation::Generation,
    wire::operation::{Operation, Rejection},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::dispatch::progress::RequestProgress;

/// The urgency of a request. Background work never delays interactive work by more than one
/// micro-batch. It gets only the time that interactive work leaves: if interactive load keeps all
/// workers busy, it waits until its deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A client is waiting for the answer.
    #[default]
    Interactive,
    /// No client is waiting: re-embedding, warm-up, checks.
    Background,
}

/// The terms under which a request runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestTerms {
    /// The request's timeout, if it sets one. The server's limit also applies.
    pub timeout: Option<Duration>,
    /// The urgency of the request.
    pub priority: Priority,
}

/// One item on its way through the queue. Dropping it sends no answer; its handler notices that.
#[derive(Debug)]
pub struct Item {
    pub slot: Slot,
    /// The operation and its payload.
    pub input: Input,
    /// Its index in the request.
    pub index: usize,
    /// When it was submitted.
    pub queued_at: Instant,
    /// When its client receives a timeout error.
    pub deadline: Instant,
    /// The urgency of its request.
    pub priority: Priority,
    /// Whether all items of the request must be computed in one group.
    pub together: bool,
    /// Notes the phases of its request, if that is recorded.
    pub progress: Option<RequestProgress>,
    /// Where the answer goes; closed when the client has disconnected.
    pub reply: mpsc::Sender<(usize, Result<ItemAnswer, ItemError>)>,
    /// The request's queue permits, released when its last item is dropped.
    pub _permits: Arc<QueuePermits>,
}

/// The permits of one request in its model's bounded queue.
#[derive(Debug)]
pub struct QueuePermits {
    /// From the whole queue.
    pub _queue: OwnedSemaphorePermit,
    /// From the share for background work, if the request is background work.
    pub _share: Option<OwnedSemaphorePermit>,
}

/// An operation on one input of a request. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Input {
    /// The operation.
    pub operation: Operation,
    /// Its payload, which may consist of several parts.
    pub parts: Vec<Bytes>,
}

impl Input {
    /// Returns the size of the payload in bytes.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

/// The answer to one item.
#[derive(Clone, Debug)]
pub struct ItemAnswer {
    /// The generation that produced it.
    pub generation: Generation,
    /// Numbers, text or tensors, depending on the operation.
    pub bytes: Bytes,
    /// The tensors in `bytes`, if any.
    pub outputs: Vec<TensorHead>,
    /// Tokens computed.
    pub tokens: u32,
    /// Time spent in each phase.
    pub timing: Timing,
    /// When it was submitted.
    pub queued_at: Instant,
}

/// Time spent in each phase by one item, or the maximum over a request's items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From submission until a worker received it.
    pub queue: Duration,
    /// Tokenizing its group.
    pub tokenize: Duration,
    /// ONNX Runtime and post-processing for its micro-batch.
    pub infer: Duration,
}

/// When the input that was answered last went through its phases. The request waited for that one.
#[derive(Clone, Copy, Debug)]
pub struct Phases {
    /// When it was submitted.
    pub queued_at: Instant,
    /// Time it spent in each phase.
    pub timing: Timing,
    /// When its answer arrived.
    pub answered_at: Instant,
}

/// The reason an item failed.
#[derive(Clone, Debug)]
pub enum ItemError {
    /// The worker rejected it.
    Rejected(Rejection),
    /// Too many workers died while computing it.
    Poisonous,
    /// All workers have failed, or the server is stopping.
    Stopped,
}
