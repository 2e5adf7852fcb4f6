//! Sends the requests of updates to workers, as messages to the dispatcher.

use onnxd_proto::control_page::Slot;
use tokio::sync::{mpsc, oneshot};

use crate::{
    dispatch::Event,
    models::workers::{Boxed, Workers},
    pool::WorkerId,
};

/// A handle through which updates reach the workers.
#[derive(Clone, Debug)]
pub struct WorkerRequests(mpsc::Sender<Event>);

impl WorkerRequests {
    /// Creates a handle that sends to the dispatcher reading the other end.
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self(events)
    }

    /// Sends an event. Dropped if the dispatcher has stopped, since no workers are left then.
    fn send(&self, event: Event) -> Boxed<'_, ()> {
        Box::pin(async move {
            let _ = self.0.send(event).await;
        })
    }
}

impl Workers for WorkerRequests {
    fn start(&self) -> Boxed<'_, ()> {
        self.send(Event::StartWorkers)
    }

    fn serving(&self) -> Boxed<'_, Vec<WorkerId>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.send(Event::WorkersRequested(reply)).await;
            answer.await.unwrap_or_default()
        })
    }

    fn load_ahead(&self, worker: WorkerId, slot: Slot, version: String) -> Boxed<'_, ()> {
        self.send(Event::LoadAhead(worker, slot, version))
    }

    fn drop_loaded_ahead(&self, slot: Slot) -> Boxed<'_, ()> {
        self.send(Event::DropLoadedAhead(slot))
    }

    fn unload(&self, slot: Slot) -> Boxed<'_, ()> {
        Box::pin(async move {
            let (reply, dropped) = oneshot::channel();
            self.send(Event::Unload(slot, reply)).await;
            // An error means that the dispatcher has stopped.
            let _ = dropped.await;
        })
    }

    fn switch_idle_workers(&self) {
        // If the queue is full, the queued requests make workers follow anyway.
        let _ = self.0.try_send(Event::Committed);
    }
}
