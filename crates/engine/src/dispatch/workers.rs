//! What updates ask of workers, as messages to the dispatcher.

use onnxd_proto::control_page::Slot;
use tokio::sync::{mpsc, oneshot};

use crate::{
    dispatch::Event,
    models::workers::{Boxed, Workers},
    pool::WorkerId,
};

/// The way to the workers for updates.
#[derive(Clone, Debug)]
pub struct WorkerRequests(mpsc::Sender<Event>);

impl WorkerRequests {
    /// Sends to the dispatcher that reads the other end.
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self(events)
    }

    /// Sends an event. Without a dispatcher there are no workers, and it is dropped.
    fn send(&self, event: Event) -> Boxed<'_, ()> {
        Box::pin(async move {
            let _ = self.0.send(event).await;
        })
    }
}

impl Workers for WorkerRequests {
    fn serving(&self) -> Boxed<'_, Vec<WorkerId>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.send(Event::WorkersAsked(reply)).await;
            answer.await.unwrap_or_default()
        })
    }

    fn load_ahead(&self, worker: WorkerId, slot: Slot, version: String) -> Boxed<'_, ()> {
        self.send(Event::LoadAhead(worker, slot, version))
    }

    fn forget(&self, slot: Slot) -> Boxed<'_, ()> {
        self.send(Event::Forget(slot))
    }

    fn unload(&self, slot: Slot) -> Boxed<'_, ()> {
        Box::pin(async move {
            let (reply, dropped) = oneshot::channel();
            self.send(Event::Unload(slot, reply)).await;
            // An error means that there is no dispatcher.
            let _ = dropped.await;
        })
    }

    fn follow_commit(&self) {
        // Where it does not fit the queue, there are requests enough to make workers follow.
        let _ = self.0.try_send(Event::Committed);
    }
}
