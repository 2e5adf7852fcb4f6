//! The dispatcher's queue handling: queues items, hands out the groups that the scheduler chooses,
//! and requeues items that a worker did not answer.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use onnxd_proto::{
    control_page::Slot,
    generation::Generation,
    wire::{
        message::ToWorker,
        operation::{self, Operation},
    },
};

use crate::dispatch::{
    actor::state::{Accepted, Culprit, Dispatcher, answer},
    item::{Item, ItemError, Priority},
    policy::{
        estimate::Size,
        groups::{SentGroup, UnansweredItems},
        placement,
        scheduler::{self, Age, Arrival, Charge, Group, ItemId, Unit},
    },
};
use crate::{models::machine::events::WorkerEvent, pool::WorkerId};

/// Workers that may crash while computing an item before it is answered with status 500: by then
/// the item is the likely cause.
const ITEM_FAULTS_MAX: u32 = 2;
/// Workers that may die in any way while computing an item. A kill from outside does not
/// incriminate an item, but the kernel also kills when an item needs more memory than there is.
const ITEM_DEATHS_MAX: u32 = 5;

/// Payload parts up to this size are concatenated: one contiguous buffer is sent faster than many.
/// Larger parts are sent without copying.
const COPIED_BYTES_MAX: usize = 64 * 1024;

impl Dispatcher {
    pub(super) fn submit(&mut self, items: Vec<Item>) {
        if self.none_left() {
            return items.into_iter().for_each(|item| answer(item, Err(ItemError::Stopped)));
        }
        let items = self.refuse_poisonous(items);
        let Some(&Item { slot, together, priority, queued_at, .. }) = items.first() else { return };
        let micros = micros(queued_at.saturating_duration_since(self.started));
        let arrival = Arrival { slot, micros, priority, together };
        let mut numbered = Vec::with_capacity(items.len());
        let mut sizes = Vec::with_capacity(items.len());
        for Item { input, .. } in &items {
            self.metrics.items_total.increment();
            let size = Size::new(&input.operation, input.parts.iter().map(|part| &part[..]));
            sizes.push(size);
            let work = self.estimates[usize::from(slot)].work(size, input.bytes());
            numbered.push((self.next_id(), work));
        }
        let units = scheduler::units(arrival, &numbered, self.workers.len());
        let min_generation = self.registry.page().committed(slot);
        let mut rest = items.into_iter().zip(numbered).zip(sizes);
        for (age, unit) in units {
            // The items of a unit are in request order.
            for (_, ((item, (id, work)), size)) in unit.items.iter().zip(rest.by_ref()) {
                let (waited, deaths, faults) = (Duration::ZERO, 0, 0);
                let accepted =
                    Accepted { item, age, work, size, min_generation, waited, deaths, faults };
                self.items.insert(id, accepted);
            }
            self.scheduler.push(age, unit);
        }
    }

    /// Hands queued items to free workers.
    pub(super) fn hand_out(&mut self) {
        let now = Instant::now();
        self.idle_boost.observe(now, self.items.len());
        loop {
            let Self { scheduler, workers, registry, estimates, .. } = self;
            let free = |slot, priority| {
                placement::free(workers, slot, registry.page().committed(slot), priority).count()
            };
            let run_micros =
                |slot, texts, tokens| estimates[usize::from(slot)].micros(texts, tokens);
            let Some(mut group) = scheduler.next(free, run_micros) else { break };
            let is_disconnected = |id: &ItemId| self.items[id].item.reply.is_closed();
            let (cancelled, items): (Vec<_>, Vec<_>) =
                group.items.into_iter().partition(is_disconnected);
            for item in cancelled {
                self.items.remove(&item);
                self.metrics.items_cancelled_total.increment();
            }
            group.items = items;
            group.items.retain(|&item| !self.refuse_late(item));
            if group.items.is_empty() {
                // No client is waiting for it, so its model is not charged.
                let (slot, priority, estimated) = (group.slot, group.priority, group.micros.into());
                self.scheduler.correct(Charge { slot, priority, estimated, took: 0 });
            } else {
                self.send_group(&group, now);
            }
        }
        self.drop_abandoned();
        for priority in [Priority::Interactive, Priority::Background] {
            let micros = self.scheduler.micros(priority) / self.workers.len().max(1) as u64;
            self.backlog.set(priority, micros);
        }
    }

    /// Drops background items whose clients disconnected or timed out while they were queued.
    fn drop_abandoned(&mut self) {
        let Self { scheduler, items, .. } = self;
        let is_abandoned =
            |id| items.get(&id).is_none_or(|accepted| accepted.item.reply.is_closed());
        for id in scheduler.drop_abandoned(is_abandoned) {
            self.items.remove(&id);
            self.metrics.items_cancelled_total.increment();
        }
    }

    fn send_group(&mut self, group: &Group, now: Instant) {
        let id = self.next_id();
        let (worker, wide) = self.choose_worker(group, now);
        let mut payload = Payload::default();
        let mut items = Vec::with_capacity(group.items.len());
        for id in &group.items {
            let accepted = self.items.get_mut(id).expect("every queued item is in the table");
            accepted.waited = accepted.item.queued_at.elapsed();
            if let Some(progress) = &accepted.item.progress {
                progress.delivered();
            }
            self.metrics.model(group.slot).handed_out(accepted.waited);
            let input = &accepted.item.input;
            input.parts.iter().for_each(|part| payload.push(part));
            let payload_bytes = u32::try_from(input.bytes()).expect("an item fits into a frame");
            items.push(operation::Item { payload_bytes, operation: input.operation.clone() });
        }
        let deadlines = group.items.iter().filter_map(|item| self.items.get(item));
        let deadline = deadlines.map(|accepted| accepted.item.deadline).min();
        let message = ToWorker::Run { slot: group.slot, items, wide };
        let committed = self.registry.page().committed(group.slot);
        let sent = SentGroup { id, wide, deadline, committed };
        self.workers[worker].send_group(group, sent, &message, payload.finish());
    }

    /// Picks the worker for a group, and decides whether other workers' CPUs help with it.
    fn choose_worker(&self, group: &Group, now: Instant) -> (WorkerId, bool) {
        let committed = self.registry.page().committed(group.slot);
        let free = || placement::free(&self.workers, group.slot, committed, group.priority);
        // Waking a worker on this CPU needs no interrupt to another one. If all are idle, it starts
        // as soon as this thread goes idle.
        let here = rustix::thread::sched_getcpu();
        let is_here = |id: &WorkerId| usize::from(self.workers[*id].cpu) == here;
        let first = free().find(is_here).or_else(|| free().next());
        let first = first.expect("a group is formed only if a worker is free");
        let ([item], 1) = (&group.items[..], self.items.len()) else { return (first, false) };
        let accepted = &self.items[item];
        let is_text = matches!(accepted.item.input.operation, Operation::Text { .. });
        // Helpers would take CPUs from interactive work that arrives meanwhile.
        let is_background = group.priority == Priority::Background;
        if is_background || !is_text || !self.idle_boost.applies(now, accepted.work) {
            return (first, false);
        }
        let has_helpers = |id: &WorkerId| !self.workers[*id].helper_cpus.is_empty();
        match free().find(has_helpers) {
            Some(id) => (id, true),
            None => (first, false),
        }
    }

    /// Rejects every queued and running item, since no worker will come back.
    pub(super) fn reject_all(&mut self) {
        self.scheduler.clear();
        for (_, accepted) in self.items.drain() {
            answer(accepted.item, Err(ItemError::Stopped));
        }
    }

    /// Requeues a worker's unanswered items, or rejects those that have killed too many workers.
    pub(super) fn requeue(&mut self, id: WorkerId, culprit: Culprit) {
        for UnansweredItems { slot, items, committed, is_suspect } in
            self.workers[id].take_unanswered()
        {
            let worker = &self.workers[id].session;
            let loaded = worker.generation(slot);
            // It died while loading the committed generation, before it started on the items.
            let loading = loaded < committed && !worker.failed_to_load(slot, committed);
            let generation = if loading { committed } else { loaded };
            if is_suspect {
                self.notify(slot, WorkerEvent::Failed(generation));
            }
            for id in items {
                let Some(accepted) = self.items.get_mut(&id) else { continue };
                accepted.deaths += u32::from(is_suspect);
                accepted.faults += u32::from(is_suspect && culprit == Culprit::Worker && !loading);
                if accepted.item.deadline <= Instant::now() {
                    // Its client has received the timeout error.
                    self.items.remove(&id);
                    self.metrics.items_cancelled_total.increment();
                    continue;
                }
                if accepted.faults < ITEM_FAULTS_MAX && accepted.deaths < ITEM_DEATHS_MAX {
                    self.metrics.items_retried_total.increment();
                    self.requeue_item(slot, id);
                } else if let Some(accepted) = self.items.remove(&id) {
                    self.metrics.items_poisonous_total.increment();
                    if accepted.faults >= ITEM_FAULTS_MAX {
                        self.record_poison(generation, &accepted.item);
                    }
                    answer(accepted.item, Err(ItemError::Poisonous));
                }
            }
        }
    }

    /// Returns an item to its original position in the queue.
    pub(super) fn requeue_item(&mut self, slot: Slot, id: ItemId) {
        let Some(accepted) = self.items.get(&id) else { return };
        let (work, suspect) = (accepted.work, accepted.faults > 0);
        let priority = accepted.item.priority;
        let age = Age { item: id, ..accepted.age };
        self.scheduler.push(age, Unit { slot, priority, items: vec![id], work, suspect });
    }

    /// Requeues an item rejected by a worker that has nothing loaded, if another worker has or will
    /// have the committed generation. Returns whether it was requeued.
    pub(super) fn retry_on_another(&mut self, slot: Slot, id: ItemId) -> bool {
        let committed = self.registry.page().committed(slot);
        let can_retry = committed != 0 && placement::any_current(&self.workers, slot, committed);
        if can_retry {
            self.metrics.items_retried_total.increment();
            self.requeue_item(slot, id);
        }
        can_retry
    }

    /// Requeues an item that was answered by a generation older than its client may already have
    /// seen. This happens if the worker could not load the committed generation. Returns `false` if
    /// no worker could answer with a newer one.
    pub(super) fn retry_if_too_old(
        &mut self,
        slot: Slot,
        id: ItemId,
        generation: Generation,
    ) -> bool {
        let too_old =
            self.items.get(&id).is_some_and(|accepted| generation < accepted.min_generation);
        let committed = self.registry.page().committed(slot);
        if !too_old || !placement::any_current(&self.workers, slot, committed) {
            return false;
        }
        self.metrics.items_regenerated_total.increment();
        self.requeue_item(slot, id);
        true
    }
}

/// Builds a group's payload.
#[derive(Debug, Default)]
struct Payload {
    parts: Vec<Bytes>,
    small: BytesMut,
}

impl Payload {
    fn push(&mut self, part: &Bytes) {
        if part.len() <= COPIED_BYTES_MAX {
            self.small.extend_from_slice(part);
        } else {
            self.close();
            self.parts.push(part.clone());
        }
    }

    fn close(&mut self) {
        if !self.small.is_empty() {
            self.parts.push(self.small.split().freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.close();
        self.parts
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
