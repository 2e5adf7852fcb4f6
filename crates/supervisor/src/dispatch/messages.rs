//! What the dispatcher does with a worker's messages. Whatever does not fit what the worker was
//! asked is an error, after which the worker is replaced.

use std::time::{Duration, Instant};

use bytes::Bytes;
use onnxd_proto::message::{Embeddings, FromWorker, ToWorker, Welcome};

use super::{
    Embedded, ItemError, Timing,
    dispatcher::{Accepted, Dispatcher, answer},
    worker::{self, Load},
};
use crate::{
    models::events,
    pool::{WorkerId, link::Incoming},
};

impl Dispatcher {
    /// Acts on a message; an error says what is wrong with it.
    pub(super) fn message(&mut self, id: WorkerId, incoming: Incoming) -> Result<(), &'static str> {
        let worker = &mut self.workers[id];
        match incoming.message {
            FromWorker::Hello { build_id, pinned } => self.greeted(id, &build_id, pinned),
            FromWorker::Ready => {
                worker.state.ready(Instant::now());
                self.warmed_up[id] = true;
                tracing::info!(worker = id, "worker ready");
                self.forget_at_start(id);
                Ok(())
            }
            FromWorker::Loaded { slot, generation, load_micros, compiled, costs } => {
                let loaded =
                    Load { generation, micros: load_micros, compiled, at: Some(Instant::now()) };
                worker.loaded(slot, loaded).ok_or("it has loaded a model that is not served")?;
                let model = self.registry.at(slot);
                if let Some(record) = model.record(generation) {
                    self.estimates[usize::from(slot)].loaded(costs, record.facts.max_tokens);
                }
                let model = model.name.as_str();
                tracing::info!(worker = id, model, generation, load_micros, "worker refreshed");
                Ok(())
            }
            FromWorker::LoadFailed { slot, generation, reason } => {
                tracing::error!(worker = id, slot, generation, reason, "worker could not load");
                worker.could_not_load(slot, generation);
                self.tell(slot, events::Event::WorkerFailed(generation));
                Ok(())
            }
            FromWorker::LoadedAhead { slot, version, load_micros } => {
                tracing::info!(worker = id, slot, version, load_micros, "worker loaded ahead");
                self.tell(slot, events::Event::Loaded(id, version, Ok(())));
                Ok(())
            }
            FromWorker::LoadAheadFailed { slot, version, reason } => {
                tracing::error!(worker = id, slot, version, reason, "worker could not load ahead");
                self.tell(slot, events::Event::Loaded(id, version, Err(reason)));
                Ok(())
            }
            FromWorker::Embeddings(embeddings) => {
                self.embedded(id, incoming.id, &embeddings, &incoming.payload)
            }
            FromWorker::Rejected { items, reason } => {
                let items = worker.answered(incoming.id, items.into_iter());
                for item in items.ok_or("it rejects what it was not given")? {
                    if let Some(accepted) = self.items.remove(&item) {
                        answer(accepted.item, Err(ItemError::Rejected(reason.clone())));
                    }
                }
                Ok(())
            }
            FromWorker::Unloaded { slot } => {
                worker.unloaded(slot).ok_or("it has unloaded a model that is not served")
            }
            FromWorker::Forgotten => {
                self.forgotten(id, Some(incoming.id));
                Ok(())
            }
            FromWorker::Pong => Ok(()),
        }
    }

    /// Tells a new process where everything is.
    fn greeted(
        &mut self,
        id: WorkerId,
        build_id: &str,
        pinned: Result<u16, String>,
    ) -> Result<(), &'static str> {
        let worker = &mut self.workers[id];
        worker.pinned = pinned.is_ok();
        if let Err(reason) = pinned {
            tracing::warn!(worker = id, cpu = worker.cpu, reason, "worker is not pinned");
        }
        if !worker.accept_build(build_id) {
            return Err("it is of another build");
        }
        let models = self.registry.models().iter();
        worker.welcomed(models.map(|model| self.registry.page().committed(model.slot)).collect());
        let helper_cpus = worker.helper_cpus.clone();
        let welcome = ToWorker::Welcome(Welcome { helper_cpus, ..self.welcome.clone() });
        worker.send(0, &welcome, Bytes::new()).then_some(()).ok_or("it takes no message")
    }

    fn embedded(
        &mut self,
        id: WorkerId,
        group: u64,
        embeddings: &Embeddings,
        payload: &Bytes,
    ) -> Result<(), &'static str> {
        let worker = &mut self.workers[id];
        if !worker::fits(embeddings, payload) {
            return Err("its payload is not as long as it says");
        }
        let slot = worker.group_slot(group).ok_or("it answers what it was not given")?;
        let Some(record) = self.registry.at(slot).record(embeddings.generation) else {
            return Err("it names a generation that was never committed");
        };
        if record.facts.dimension != embeddings.dimension {
            return Err("its embeddings have another dimension than the version was checked with");
        }
        let helped = worker.is_helped();
        let places = embeddings.items.iter().map(|embedded| embedded.item);
        let items = worker.answered(group, places).ok_or("it answers an item twice")?;
        self.counters.micro_batches_total.add();
        self.counters.inference_cpu_micros_total.add_all(embeddings.infer_cpu_micros.into());
        let width = embeddings.dimension as usize * size_of::<f32>();
        let longest = embeddings.items.iter().map(|item| item.tokens).max().unwrap_or(0);
        // Of a run that others helped with, the worker knows its own part.
        if !helped {
            let micros = embeddings.infer_cpu_micros;
            self.estimates[usize::from(slot)].ran(items.len(), longest, micros);
        }
        for (place, (item, embedded)) in items.into_iter().zip(&embeddings.items).enumerate() {
            if self.answered_too_old(slot, item, embeddings.generation) {
                continue;
            }
            let accepted = self.items.remove(&item);
            let Some(Accepted { item, pieces, waited, .. }) = accepted else { continue };
            self.estimates[usize::from(slot)].tokenized(pieces, embedded.tokens);
            let timing = Timing {
                queue: waited,
                tokenize: Duration::from_micros(embeddings.tokenize_micros.into()),
                infer: Duration::from_micros(embeddings.infer_micros.into()),
            };
            let components = payload.slice(place * width..(place + 1) * width);
            let generation = embeddings.generation;
            let embedded = Embedded { generation, components, tokens: embedded.tokens, timing };
            answer(item, Ok(embedded));
        }
        Ok(())
    }
}
