//! Refuses items whose like crashed workers.

use std::time::Instant;

use onnxd_proto::generation::Generation;

use crate::dispatch::{
    actor::state::{Dispatcher, answer},
    item::{Item, ItemError},
    policy::{poison::REFUSED_FOR, scheduler::ItemId},
};

impl Dispatcher {
    /// Whether an item is refused now.
    fn is_poisonous(&self, now: Instant, item: &Item) -> bool {
        let committed = self.registry.page().committed(item.slot);
        self.poison.is(now, (item.slot, committed), &item.input)
    }

    /// Refuses a request of which an item is known to be poisonous, as a whole: its response would
    /// be one. Gives back what is to be done.
    pub(super) fn refuse_poisonous(&mut self, mut items: Vec<Item>) -> Vec<Item> {
        let now = Instant::now();
        if let Some(place) = items.iter().position(|item| self.is_poisonous(now, item)) {
            self.refuse(items.swap_remove(place));
            items.clear();
        }
        items
    }

    /// The same for an item that waited while another taught us.
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

    /// An item took too many workers with it by faults of their own.
    pub(super) fn learn_poison(&mut self, generation: Generation, item: &Item) {
        tracing::error!(
            slot = item.slot,
            generation,
            bytes = item.input.bytes(),
            refused_seconds = REFUSED_FOR.as_secs(),
            "an input has ended workers, and its like is refused"
        );
        self.poison.learn(Instant::now(), (item.slot, generation), &item.input);
    }
}
