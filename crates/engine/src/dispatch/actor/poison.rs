//! Refuses items identical to ones that crashed workers.

use std::time::Instant;

use onnxd_proto::generation::Generation;

use crate::dispatch::{
    actor::state::{Dispatcher, answer},
    item::{Item, ItemError},
    policy::{poison::REFUSED_FOR, scheduler::ItemId},
};

impl Dispatcher {
    /// Returns whether an item must be refused now.
    fn is_poisonous(&self, now: Instant, item: &Item) -> bool {
        let committed = self.registry.page().committed(item.slot);
        self.poison.contains(now, (item.slot, committed), &item.input)
    }

    /// Refuses a whole request if one of its items is known to be poisonous, because a response is
    /// all or nothing. Returns the items that may run.
    pub(super) fn refuse_poisonous(&mut self, mut items: Vec<Item>) -> Vec<Item> {
        let now = Instant::now();
        if let Some(place) = items.iter().position(|item| self.is_poisonous(now, item)) {
            self.refuse(items.swap_remove(place));
            items.clear();
        }
        items
    }

    /// Refuses an item that became known as poisonous while it was queued. Returns whether it did.
    pub(super) fn refuse_late(&mut self, id: ItemId) -> bool {
        let now = Instant::now();
        let poisonous =
            self.items.get(&id).is_some_and(|accepted| self.is_poisonous(now, &accepted.item));
        if poisonous && let Some(accepted) = self.items.remove(&id) {
            self.refuse(accepted.item);
        }
        poisonous
    }

    fn refuse(&self, item: Item) {
        self.metrics.items_refused_total.add();
        answer(item, Err(ItemError::Poisonous));
    }

    /// Records an item that crashed too many workers.
    pub(super) fn learn_poison(&mut self, generation: Generation, item: &Item) {
        tracing::error!(
            slot = item.slot,
            generation,
            bytes = item.input.bytes(),
            refused_seconds = REFUSED_FOR.as_secs(),
            "input crashed workers, refusing identical inputs"
        );
        self.poison.learn(Instant::now(), (item.slot, generation), &item.input);
    }
}
