//! Handles a worker's messages. A message that does not answer a request is a protocol violation,
//! and the worker is replaced.

use std::time::{Duration, Instant};

use bytes::Bytes;
use onnxd_proto::{
    control_page::Slot,
    domain::{Facts, Output, Task},
    wire::{
        message::{FromWorker, ToWorker, Welcome},
        operation::{self, Operation, Rejection, SPARSE_ENTRY_BYTES, TextOutput},
    },
};

use crate::dispatch::{
    actor::state::{Accepted, Dispatcher, answer},
    item::{ItemAnswer, ItemError, Timing},
    policy::{groups::GroupState, scheduler::ItemId},
    worker::Load,
};
use crate::{
    models::machine::events::WorkerEvent,
    pool::{WorkerId, link::Incoming},
};

impl Dispatcher {
    /// Handles a message. An error describes how it violates the protocol.
    pub(super) fn message(&mut self, id: WorkerId, incoming: Incoming) -> Result<(), &'static str> {
        let worker = &mut self.workers[id].session;
        match incoming.message {
            FromWorker::Hello { build_id, pinned } => self.handshake(id, &build_id, pinned),
            FromWorker::Ready => {
                worker.ready(Instant::now());
                tracing::info!(worker = id, "worker ready");
                self.unload_at_start(id);
                self.filter_log(id);
                self.check_memory_at_ready(id);
                Ok(())
            }
            FromWorker::Loaded { slot, generation, load_micros, compiled, costs } => {
                let loaded =
                    Load { generation, micros: load_micros, compiled, at: Some(Instant::now()) };
                worker.loaded(slot, loaded)?;
                self.record_refresh(id, slot, load_micros);
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
                worker.load_failed(slot, generation, reason);
                self.metrics.model(slot).load_failed();
                self.notify(slot, WorkerEvent::Failed(generation));
                Ok(())
            }
            FromWorker::LoadedAhead { slot, version, load_micros } => {
                tracing::info!(worker = id, slot, version, load_micros, "worker loaded ahead");
                self.metrics.model(slot).loaded_ahead(load_micros);
                self.notify(slot, WorkerEvent::Loaded(id, version, Ok(())));
                Ok(())
            }
            FromWorker::LoadAheadFailed { slot, version, reason } => {
                tracing::error!(worker = id, slot, version, reason, "worker could not load ahead");
                self.metrics.model(slot).load_failed();
                self.notify(slot, WorkerEvent::Loaded(id, version, Err(reason)));
                Ok(())
            }
            FromWorker::Answered(answered) => {
                self.answered(id, incoming.id, answered, incoming.payload)
            }
            FromWorker::Rejected { items, reason } => {
                self.rejected(id, incoming.id, items, &reason)
            }
            FromWorker::Unloaded { slot } => worker.unloaded(slot),
            FromWorker::Forgotten => {
                self.forgotten(id, Some(incoming.id));
                Ok(())
            }
            FromWorker::Pong => Ok(()),
        }
    }

    /// Answers a new process's greeting with the settings it needs.
    fn handshake(
        &mut self,
        id: WorkerId,
        build_id: &str,
        pinned: Result<u16, String>,
    ) -> Result<(), &'static str> {
        let worker = &mut self.workers[id];
        let is_pinned = pinned.is_ok();
        if let Err(reason) = pinned {
            tracing::warn!(
                worker = id,
                cpu = worker.cpu,
                reason,
                "worker could not be pinned to its CPU"
            );
        }
        let models = self.registry.models().iter();
        let committed = models.map(|model| self.registry.page().committed(model.slot)).collect();
        worker.session.hello(build_id, is_pinned, committed)?;
        let helper_cpus = worker.helper_cpus.clone();
        let welcome = ToWorker::Welcome(Welcome { helper_cpus, ..self.welcome.clone() });
        worker.send(0, &welcome, Vec::new()).then_some(()).ok_or("does not read its socket")
    }

    /// Requeues an item of a terminated group if it has time left, since another item's deadline
    /// caused the termination. An expired item is dropped: its client receives the timeout error.
    fn retry_terminated(&mut self, slot: Slot, item: ItemId) {
        let Some(accepted) = self.items.get(&item) else { return };
        if accepted.item.deadline > Instant::now() {
            self.metrics.items_retried_total.increment();
            self.requeue_item(slot, item);
        } else {
            self.items.remove(&item);
            self.metrics.items_cancelled_total.increment();
        }
    }

    /// Handles items of a group that a worker could not answer.
    fn rejected(
        &mut self,
        id: WorkerId,
        group: u64,
        items: Vec<u32>,
        reason: &Rejection,
    ) -> Result<(), &'static str> {
        let worker = &mut self.workers[id].session;
        let slot = worker.groups().slot(group);
        let terminated = worker.groups().is_terminated(group);
        let charge = worker.record_time(group, 0);
        let taken = worker.answered(group, items.into_iter());
        let taken = taken.ok_or("rejected items that it was not sent")?;
        if let Some(charge) = charge.filter(|_| taken.group == GroupState::Done) {
            self.scheduler.correct(charge);
        }
        for item in taken.items {
            if let (true, Some(slot)) = (terminated, slot) {
                self.retry_terminated(slot, item);
                continue;
            }
            if matches!(reason, Rejection::NotLoaded(_))
                && slot.is_some_and(|slot| self.retry_on_another(slot, item))
            {
                continue;
            }
            if let Some(accepted) = self.items.remove(&item) {
                answer(accepted.item, Err(ItemError::Rejected(reason.clone())));
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        id: WorkerId,
        group: u64,
        answered: operation::BatchResult,
        mut payload: Bytes,
    ) -> Result<(), &'static str> {
        let worker = &mut self.workers[id].session;
        let slot =
            worker.groups().slot(group).ok_or("answered a group that it is not computing")?;
        let Some(record) = self.registry.at(slot).record(answered.generation) else {
            return Err("reported a generation that was never committed");
        };
        let indices = || answered.items.iter().map(|item| item.item);
        let ids =
            worker.groups().unanswered_at(group, indices()).ok_or("answered an item twice")?;
        let operations =
            ids.iter().map(|id| self.items.get(id).map(|accepted| &accepted.item.input.operation));
        if !fits(&answered, operations, &record.facts, payload.len()) {
            return Err("sent an answer that does not match the request");
        }
        let is_boosted = worker.groups().is_boosted();
        let charge = worker.record_time(group, answered.infer_cpu_micros);
        let taken = worker.answered(group, indices()).ok_or("answered an item twice")?;
        let longest = answered.items.iter().map(|item| item.tokens).max().unwrap_or(0);
        if let Some(charge) = charge.filter(|_| taken.group == GroupState::Done) {
            self.scheduler.correct(charge);
        }
        self.metrics.inference_cpu_micros_total.add(answered.infer_cpu_micros.into());
        if answered.infer_cpu_micros > 0 {
            self.record_run(slot, &answered, taken.group);
            self.metrics.micro_batches_total.increment();
            // With helper CPUs, the worker only knows its own part of the CPU time.
            let (micros, estimate) =
                (answered.infer_cpu_micros, &mut self.estimates[usize::from(slot)]);
            if record.facts.output() == Output::Tensors {
                estimate.ran_tensors(ids.len(), micros);
            } else if !is_boosted {
                estimate.ran(ids.len(), longest.max(1), micros);
            }
        }
        for (item, one) in ids.into_iter().zip(answered.items) {
            let bytes = payload.split_to(one.bytes as usize);
            if self.retry_if_too_old(slot, item, answered.generation) {
                continue;
            }
            let accepted = self.items.remove(&item);
            let Some(Accepted { item, size, waited, .. }) = accepted else { continue };
            self.estimates[usize::from(slot)].tokenized(size, one.tokens);
            let timing = Timing {
                queue: waited,
                tokenize: Duration::from_micros(answered.tokenize_micros.into()),
                infer: Duration::from_micros(answered.infer_micros.into()),
            };
            let (generation, tokens, outputs) = (answered.generation, one.tokens, one.outputs);
            let queued_at = item.queued_at;
            answer(item, Ok(ItemAnswer { generation, bytes, outputs, tokens, timing, queued_at }));
        }
        Ok(())
    }
}

/// Returns whether an answer has the requested kind and size. An operation is `None` if its client
/// has disconnected.
fn fits<'a>(
    answered: &operation::BatchResult,
    operations: impl Iterator<Item = Option<&'a Operation>>,
    facts: &Facts,
    payload_bytes: usize,
) -> bool {
    let row = facts.output().row_len() as usize * size_of::<f32>();
    let sum: usize = answered.items.iter().map(|item| item.bytes as usize).sum();
    sum == payload_bytes
        && answered.items.iter().zip(operations).all(|(item, operation)| {
            let (bytes, tokens) = (item.bytes as usize, item.tokens as usize);
            let tensors: usize = item.outputs.iter().map(|head| head.bytes as usize).sum();
            match operation {
                None | Some(Operation::Tokenize { .. } | Operation::Decode { .. }) => true,
                Some(Operation::Tensors { .. }) => tensors == bytes,
                Some(Operation::Text { output, .. }) => match output {
                    TextOutput::Embedding { dimensions: Some(requested), .. } => {
                        bytes == *requested as usize * size_of::<f32>() && bytes <= row
                    }
                    TextOutput::Embedding { dimensions: None, .. } | TextOutput::Scores => {
                        bytes == row
                    }
                    // These models may keep more or fewer vectors than there are tokens.
                    TextOutput::TokenEmbeddings if facts.task == Task::MultiVector => {
                        row > 0 && bytes.is_multiple_of(row)
                    }
                    TextOutput::TokenEmbeddings => tokens.checked_mul(row) == Some(bytes),
                    TextOutput::Sparse => bytes.is_multiple_of(SPARSE_ENTRY_BYTES),
                    TextOutput::Entities(_) => true,
                },
            }
        })
}
