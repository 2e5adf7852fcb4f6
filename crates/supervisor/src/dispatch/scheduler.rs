//! One queue for all workers, and which items go together to the next idle one. Pure: it knows
//! numbers, no sockets and no clock.
//!
//! Work is bound late: items wait here until a worker is idle, so that none is stuck behind a
//! long group while another worker sleeps. What waits is divided by the idle workers rather than
//! piled on the first.

use std::collections::VecDeque;

use onnxd_proto::{control_page::Slot, limits::GROUP_ITEMS_MAX};

/// The number of an item.
pub(crate) type ItemId = u64;

/// Items in a group unless they must stay together: small enough that a worker looks at the
/// generation often and that a late single text does not wait for long.
const GROUP_ITEMS: usize = 8;

/// Items that are handed out together: usually one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The model's slot.
    pub slot: Slot,
    /// From 1 to [`GROUP_ITEMS_MAX`].
    pub items: Vec<ItemId>,
}

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    queue: VecDeque<Unit>,
}

impl Scheduler {
    /// Puts new work at the end.
    pub(crate) fn push(&mut self, unit: Unit) {
        debug_assert!((1..=GROUP_ITEMS_MAX).contains(&unit.items.len()));
        self.queue.push_back(unit);
    }

    /// Puts work that has waited already at the head, in its order.
    pub(crate) fn push_front(&mut self, units: Vec<Unit>) {
        for unit in units.into_iter().rev() {
            self.queue.push_front(unit);
        }
    }

    /// Everything that waits, which then waits no more.
    pub(crate) fn take_all(&mut self) -> Vec<Unit> {
        self.queue.drain(..).collect()
    }

    /// The group for one idle worker: the oldest unit that any may have, and further units of its
    /// model as far as they fit this worker's share. `idle` says how many idle workers may have
    /// work of a model.
    pub(crate) fn next(&mut self, idle: impl Fn(Slot) -> usize) -> Option<Unit> {
        let oldest = self.queue.iter().position(|unit| idle(unit.slot) > 0)?;
        let mut group = self.queue.remove(oldest)?;
        let same = |unit: &Unit| unit.slot == group.slot;
        let waiting: usize =
            self.queue.iter().filter(|unit| same(unit)).map(|unit| unit.items.len()).sum();
        let share =
            (group.items.len() + waiting).div_ceil(idle(group.slot).max(1)).min(GROUP_ITEMS);
        let mut place = 0;
        while group.items.len() < share && place < self.queue.len() {
            let unit = &self.queue[place];
            if unit.slot == group.slot && group.items.len() + unit.items.len() <= share {
                let unit = self.queue.remove(place).expect("the place is within the queue");
                group.items.extend(unit.items);
            } else {
                place += 1;
            }
        }
        Some(group)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn unit(slot: Slot, items: impl IntoIterator<Item = ItemId>) -> Unit {
        Unit { slot, items: items.into_iter().collect() }
    }

    #[test]
    fn work_is_divided_by_the_idle_workers() {
        let mut scheduler = Scheduler::default();
        (0..6).for_each(|item| scheduler.push(unit(0, [item])));
        assert_eq!(scheduler.next(|_| 2), Some(unit(0, [0, 1, 2])));
        assert_eq!(scheduler.next(|_| 1), Some(unit(0, [3, 4, 5])));
        assert_eq!(scheduler.next(|_| 1), None);
    }

    #[test]
    fn what_must_stay_together_does_and_models_are_never_mixed() {
        let mut scheduler = Scheduler::default();
        scheduler.push(unit(0, 0..20));
        scheduler.push(unit(1, [20]));
        scheduler.push(unit(0, [21]));
        scheduler.push(unit(1, [22]));
        assert_eq!(scheduler.next(|_| 4), Some(unit(0, 0..20)));
        assert_eq!(scheduler.next(|_| 1), Some(unit(1, [20, 22])));
        assert_eq!(scheduler.next(|_| 1), Some(unit(0, [21])));
    }

    #[test]
    fn work_that_no_idle_worker_may_have_holds_up_no_other() {
        let mut scheduler = Scheduler::default();
        scheduler.push(unit(0, [1]));
        scheduler.push(unit(1, [2]));
        assert_eq!(scheduler.next(|slot| usize::from(slot == 1)), Some(unit(1, [2])));
        assert_eq!(scheduler.next(|_| 0), None);
        assert_eq!(scheduler.next(|_| 1), Some(unit(0, [1])));
    }

    #[test]
    fn work_that_comes_back_is_next() {
        let mut scheduler = Scheduler::default();
        scheduler.push(unit(0, [3]));
        scheduler.push_front(vec![unit(0, [1]), unit(0, [2])]);
        assert_eq!(scheduler.next(|_| 1), Some(unit(0, [1, 2, 3])));
    }

    proptest! {
        #[test]
        fn every_item_is_handed_out_exactly_once_and_the_oldest_unit_is_always_in_the_next_group(
            units in prop::collection::vec((0..3_u16, 1..GROUP_ITEMS_MAX), 1..40),
            idle in 1..8_usize,
        ) {
            let mut scheduler = Scheduler::default();
            let mut waiting = BTreeSet::new();
            let mut number = 0;
            for (slot, length) in units {
                let length = ItemId::try_from(length).unwrap();
                scheduler.push(unit(slot, number..number + length));
                waiting.extend(number..number + length);
                number += length;
            }
            while let Some(group) = scheduler.next(|_| idle) {
                prop_assert_eq!(group.items.first(), waiting.first());
                prop_assert!((1..=GROUP_ITEMS_MAX).contains(&group.items.len()));
                for item in group.items {
                    prop_assert!(waiting.remove(&item));
                }
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
