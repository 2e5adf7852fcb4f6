//! The worker operations that updates need. Implemented by the dispatcher.

use std::{fmt::Debug, future::Future, pin::Pin};

use onnxd_proto::control_page::Slot;

use crate::pool::WorkerId;

/// A boxed future, for object-safe traits.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The workers, as updates see them. Without workers, for example after a stop, every call is a no-op.
pub trait Workers: Debug + Send + Sync {
    /// Starts the workers: a model serves. Later calls do nothing.
    fn start(&self) -> Boxed<'_, ()>;

    /// Returns the workers that serve now; none before [`Workers::start`].
    fn serving(&self) -> Boxed<'_, Vec<WorkerId>>;

    /// Asks a worker to load a version alongside the one it serves. The outcome reaches the model's
    /// update task as a [`WorkerEvent`](crate::models::machine::events::WorkerEvent).
    fn load_ahead(&self, worker: WorkerId, slot: Slot, version: String) -> Boxed<'_, ()>;

    /// Makes workers drop the version of a model that they loaded ahead.
    fn drop_loaded_ahead(&self, slot: Slot) -> Boxed<'_, ()>;

    /// Makes workers drop everything they hold of a model. Returns once all serving workers have.
    fn unload(&self, slot: Slot) -> Boxed<'_, ()>;

    /// Tells idle workers to switch to the version they loaded ahead, which has been committed.
    fn switch_idle_workers(&self);
}
