//! What workers load and drop apart from their groups: what the lines of updates ask of them.

use onnxd_proto::{control_page::Slot, wire::message::ToWorker};
use tokio::sync::oneshot;

use crate::dispatch::actor::state::{Dispatcher, Unload};
use crate::{models::machine::events::WorkerEvent, pool::WorkerId};

impl Dispatcher {
    pub(super) fn load_ahead(&self, id: WorkerId, slot: Slot, version: String) {
        let worker = &self.workers[id];
        let message = ToWorker::Load { slot, version };
        if !worker.session.serves() || !worker.send(0, &message, Vec::new()) {
            self.tell(slot, WorkerEvent::Absent(id));
        }
    }

    /// Has workers drop what they loaded ahead.
    pub(super) fn forget(&self, slot: Slot) {
        for worker in self.workers.iter().filter(|worker| worker.session.serves()) {
            // Who cannot be told will end, and has nothing loaded then.
            worker.send(0, &ToWorker::Forget { slot }, Vec::new());
        }
    }

    /// Has workers drop all they have of a model. Who is just starting is told when it is ready.
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

    /// A worker has answered the message with this number, or has ended and answers none.
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
            // Who asked may have given up.
            let _ = done.reply.send(());
        }
    }

    /// Has a worker that is ready now drop what was unloaded while it started.
    pub(super) fn forget_at_start(&self, id: WorkerId) {
        let worker = &self.workers[id];
        for slot in self.registry.models().iter().map(|model| model.slot) {
            if worker.session.generation(slot) > 0 && self.registry.page().committed(slot) == 0 {
                worker.send(0, &ToWorker::Forget { slot }, Vec::new());
            }
        }
    }
}
