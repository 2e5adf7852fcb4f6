//! Loads and drops that update queues request, independent of any group.

use onnxd_proto::{control_page::Slot, wire::message::ToWorker};
use tokio::sync::oneshot;

use crate::dispatch::actor::state::{Dispatcher, Unload};
use crate::{models::machine::events::WorkerEvent, pool::WorkerId};

impl Dispatcher {
    pub(super) fn load_ahead(&self, id: WorkerId, slot: Slot, version: String) {
        let worker = &self.workers[id];
        let message = ToWorker::Load { slot, version };
        if !worker.session.serves() || !worker.send(0, &message, Vec::new()) {
            self.notify(slot, WorkerEvent::Absent(id));
        }
    }

    /// Makes workers drop what they loaded ahead.
    pub(super) fn forget(&self, slot: Slot) {
        for worker in self.workers.iter().filter(|worker| worker.session.serves()) {
            // Ignore the result: a worker that cannot be reached will exit, which also unloads it.
            worker.send(0, &ToWorker::Forget { slot }, Vec::new());
        }
    }

    /// Makes workers drop everything they have of a model. Starting workers are told once they are
    /// ready.
    pub(super) fn unload(&mut self, slot: Slot, reply: oneshot::Sender<()>) {
        let id = self.next_id();
        let told = |place: &WorkerId| {
            let worker = &self.workers[*place];
            worker.session.serves() && worker.send(id, &ToWorker::Forget { slot }, Vec::new())
        };
        let workers = (0..self.workers.len()).filter(told).collect();
        self.unloads.push(Unload { id, workers, reply });
        self.answer_unloads();
    }

    /// Records that a worker has answered the message with this id. `None`: it has exited and will
    /// not answer any.
    pub(super) fn forgotten(&mut self, worker: WorkerId, id: Option<u64>) {
        for unload in &mut self.unloads {
            if id.is_none_or(|id| id == unload.id) {
                unload.workers.remove(&worker);
            }
        }
        self.answer_unloads();
    }

    fn answer_unloads(&mut self) {
        for done in self.unloads.extract_if(.., |unload| unload.workers.is_empty()) {
            // The receiver may have been dropped.
            let _ = done.reply.send(());
        }
    }

    /// Makes a worker that has just become ready drop what was unloaded while it started.
    pub(super) fn forget_at_start(&self, id: WorkerId) {
        let worker = &self.workers[id];
        for slot in self.registry.models().iter().map(|model| model.slot) {
            if worker.session.generation(slot) > 0 && self.registry.page().committed(slot) == 0 {
                worker.send(0, &ToWorker::Forget { slot }, Vec::new());
            }
        }
    }
}
