//! What updates need of the worker processes. The dispatcher implements it, which knows them.

use std::{fmt::Debug, future::Future, pin::Pin};

use onnxd_proto::control_page::Slot;

use crate::pool::WorkerId;

/// A future behind a pointer, for traits that are used as objects.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The workers, for updates. Without workers, as after a stop, every call returns and does nothing.
pub trait Workers: Debug + Send + Sync {
    /// The workers that serve now.
    fn serving(&self) -> Boxed<'_, Vec<WorkerId>>;

    /// Asks a worker to load a version beside what it serves. The model's update task is told the
    /// outcome as a [`WorkerEvent`](crate::models::machine::events::WorkerEvent).
    fn load_ahead(&self, worker: WorkerId, slot: Slot, version: String) -> Boxed<'_, ()>;

    /// Has workers drop what they loaded ahead of a model.
    fn forget(&self, slot: Slot) -> Boxed<'_, ()>;

    /// Has workers drop all they have of a model; returns when those that serve have.
    fn unload(&self, slot: Slot) -> Boxed<'_, ()>;

    /// What was loaded ahead is committed: idle workers need not wait for a request to follow.
    fn follow_commit(&self);
}
