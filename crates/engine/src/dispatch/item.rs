//! An item: one input of a request on its way through the queue, and the answer to it. Made by
//! [`gather`](crate::dispatch::gather), kept by the [actor](crate::dispatch::actor).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use onnxd_proto::{
    control_page::Slot,
    domain::tensor::TensorHead,
    generation::Generation,
    wire::ask::{Ask, Rejection},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Whether a client waits for a request. Background work never delays interactive work by more than one micro-batch,
/// and gets only the time that interactive work leaves: under a load that keeps all workers busy it
/// waits until its deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A client waits for the answer.
    #[default]
    Interactive,
    /// No client waits: re-embedding, warming, checking.
    Background,
}

/// On what terms a request is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// How long it may take, where it says so itself; the server's own limit holds as well.
    pub timeout: Option<Duration>,
    /// Whether a client waits for it.
    pub priority: Priority,
}

/// One item on its way through the queue. Dropping it sends no answer: its handler sees that.
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
    /// Whether a client waits for it.
    pub priority: Priority,
    /// Whether all items of the request must be computed in one group.
    pub together: bool,
    /// Where the answer goes; closed when the client has gone.
    pub reply: mpsc::Sender<(usize, Result<Answered, ItemError>)>,
    /// The request's room in the bounded queue, given back when all of it is dropped.
    pub _room: Arc<Room>,
}

/// The room of one request in the bounded queue of its model.
#[derive(Debug)]
pub struct Room {
    /// In the whole queue.
    pub _queue: OwnedSemaphorePermit,
    /// In the part of it that background work may take, where the request is that.
    pub _share: Option<OwnedSemaphorePermit>,
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
