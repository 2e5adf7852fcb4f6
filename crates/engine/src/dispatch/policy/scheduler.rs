//! One queue for all workers, and which items go together to the next free one. Pure: it knows
//! numbers and times that it is told, no sockets and no clock.
//!
//! - Work is bound late: items wait here until a worker is free, so that none is stuck behind a
//!   long group while another worker sleeps.
//! - The oldest item of a model is in the model's next group, always. An item of a request with many
//!   is as old as if its client had sent one after the other, as fast as an idle server answers
//!   them; so a client that sends 32 at once delays no client that sends one.
//! - Of several models with work, the one whose turn it is has had the least time so far; one that
//!   had no work meanwhile saved nothing up (start-time fair queueing: Goyal, Vin and Cheng, 1996).
//!   So a slow model holds up a fast one by what runs, and no more.
//! - Background work gets what interactive work leaves, of whatever model: a worker that may have an
//!   interactive item gets that first, and the two never share a group. A background group is one
//!   item, or several that take at most [`GROUP_MICROS_MIN`] one after the other: an interactive item
//!   that comes waits for that, and for no other background work. So background work has no share
//!   of its own, and waits for as long as interactive work keeps all workers busy.
//! - A group is the oldest item and others of like length, as far as running them together saves
//!   time, and no more than its share of what waits if several workers are free.

use std::collections::BTreeMap;

use onnxd_proto::{
    control_page::Slot,
    limits::{FRAME_PAYLOAD_BYTES_MAX, GROUP_ITEMS_MAX},
};

use crate::dispatch::{item::Priority, policy::estimate::Work};

/// The number of an item.
pub type ItemId = u64;

/// A group takes about this long at most, in microseconds, unless one unit alone takes longer: a
/// late short text waits for what runs, and between two groups a worker looks at the generation.
const GROUP_MICROS_MAX: u64 = 25_000;
/// Where much waits, a group may take this part of it: everybody waits longer then anyway, and
/// larger groups waste less.
const GROUP_PART: u64 = 12;
/// A group may take this long, in microseconds, also if running together saves nothing: sending
/// a group costs some dozen.
pub(crate) const GROUP_MICROS_MIN: u32 = 1_500;
/// What one more text may add to a run, as a part of what it takes alone.
const ADDED_MAX: f64 = 0.9;
/// Units, the oldest first, that are looked at to fill a group.
const LOOKAHEAD: usize = 64;
/// What has more bytes goes in no company: it runs alone anyway, and takes long to send.
const ALONE_BYTES: usize = 128 * 1024;
/// Bytes of a group of several units. Half of what a frame takes, so that texts always fit.
const GROUP_BYTES_MAX: usize = FRAME_PAYLOAD_BYTES_MAX / 2;

const _: () = assert!(GROUP_BYTES_MAX < FRAME_PAYLOAD_BYTES_MAX);

/// Since when something waits, in microseconds since the start, and a number that tells those of
/// the same time apart. The smallest is the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// See the module's head: later than the arrival for all but the first item of a request.
    pub micros: u64,
    /// As items are numbered.
    pub item: ItemId,
}

/// Items that are handed out together: usually one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The model's slot.
    pub slot: Slot,
    /// Of all items.
    pub priority: Priority,
    /// From 1 to [`GROUP_ITEMS_MAX`]; one if it is background work.
    pub items: Vec<ItemId>,
    /// That of the longest item, with the time and bytes of all.
    pub work: Work,
    /// A worker has failed with it: it goes in no company, which might suffer for it.
    pub suspect: bool,
}

/// What goes to a worker in one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The model's slot.
    pub slot: Slot,
    /// Of all items.
    pub priority: Priority,
    /// The oldest first.
    pub items: Vec<ItemId>,
    /// Estimated.
    pub micros: u32,
}

/// What a group took, for the account of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The model's slot.
    pub slot: Slot,
    /// The class of the group.
    pub priority: Priority,
    /// What the group was estimated to take, in microseconds.
    pub estimated: u64,
    /// What it took.
    pub took: u64,
}

/// What waits.
#[derive(Debug, Default)]
pub struct Scheduler {
    interactive: Class,
    background: Class,
}

/// What waits of one priority. What one class has had says nothing about the other.
#[derive(Debug, Default)]
struct Class {
    queues: BTreeMap<Slot, Queue>,
    /// What the model that had the last turn had had before it, in microseconds.
    turn: u64,
}

/// What waits for one model.
#[derive(Debug, Default)]
struct Queue {
    units: BTreeMap<Age, Unit>,
    /// The sum of all.
    micros: u64,
    /// The time that the model has had, in microseconds, or would have had if it had always had
    /// work.
    had: u64,
    /// What it had when it last began to have work: what ran before cannot put it below.
    began: u64,
}

impl Scheduler {
    /// Puts work in its place.
    pub fn push(&mut self, age: Age, unit: Unit) {
        debug_assert!((1..=GROUP_ITEMS_MAX).contains(&unit.items.len()));
        debug_assert!(unit.priority == Priority::Interactive || unit.items.len() == 1);
        self.class(unit.priority).push(age, unit);
    }

    /// Whether nothing waits.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let all = [&self.interactive, &self.background];
        all.iter().flat_map(|class| class.queues.values()).all(|queue| queue.units.is_empty())
    }

    /// What all that a new item of this priority waits for takes, one after the other.
    pub fn micros(&self, priority: Priority) -> u64 {
        match priority {
            Priority::Interactive => self.interactive.micros(),
            Priority::Background => self.interactive.micros() + self.background.micros(),
        }
    }

    /// A model's group took more or less than was estimated.
    pub fn correct(&mut self, charge: Charge) {
        let Charge { slot, priority, estimated, took } = charge;
        if let Some(queue) = self.class(priority).queues.get_mut(&slot) {
            let had = queue.had.saturating_sub(estimated).saturating_add(took);
            queue.had = had.max(queue.began.min(queue.had));
        }
    }

    /// Takes out background items that no client waits for. Interactive ones reach the head of the
    /// queue soon; background items may wait for as long as interactive work keeps workers busy, and
    /// would hold their memory and their share of the queue.
    pub fn drop_abandoned(&mut self, is_abandoned: impl Fn(ItemId) -> bool) -> Vec<ItemId> {
        let mut dropped = Vec::new();
        for queue in self.background.queues.values_mut() {
            let abandoned = |unit: &Unit| unit.items.iter().all(|item| is_abandoned(*item));
            for (_, unit) in queue.units.extract_if(.., |_, unit| abandoned(unit)) {
                queue.micros -= u64::from(unit.work.micros);
                dropped.extend(unit.items);
            }
        }
        dropped
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The group for one free worker: the oldest unit of the model whose turn it is, and what runs
    /// well with it. `free` says how many free workers may have work of a model and a priority,
    /// `takes` what a run of so many texts of so many tokens takes.
    pub fn next(
        &mut self,
        free: impl Fn(Slot, Priority) -> usize,
        takes: impl Fn(Slot, usize, u32) -> u32,
    ) -> Option<Group> {
        [Priority::Interactive, Priority::Background].into_iter().find_map(|priority| {
            self.class(priority).next(priority, |slot| free(slot, priority), &takes)
        })
    }

    fn class(&mut self, priority: Priority) -> &mut Class {
        match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Background => &mut self.background,
        }
    }
}

impl Class {
    fn push(&mut self, age: Age, unit: Unit) {
        let queue = self.queues.entry(unit.slot).or_default();
        if queue.units.is_empty() {
            queue.had = queue.had.max(self.turn);
            queue.began = queue.had;
        }
        queue.micros += u64::from(unit.work.micros);
        queue.units.insert(age, unit);
    }

    fn micros(&self) -> u64 {
        self.queues.values().map(|queue| queue.micros).sum()
    }

    fn next(
        &mut self,
        priority: Priority,
        free: impl Fn(Slot) -> usize,
        takes: impl Fn(Slot, usize, u32) -> u32,
    ) -> Option<Group> {
        let oldest =
            |(slot, queue): (&Slot, &Queue)| Some((queue.had, *queue.units.keys().next()?, *slot));
        let may = |(_, _, slot): &(u64, Age, Slot)| free(*slot) > 0;
        let (had, age, slot) = self.queues.iter().filter_map(oldest).filter(may).min()?;
        self.turn = had;
        let queue = self.queues.get_mut(&slot)?;
        let share = queue.micros.div_ceil(u64::try_from(free(slot)).unwrap_or(1));
        let micros_max = GROUP_MICROS_MAX.max(queue.micros / GROUP_PART);
        let first = queue.take(age)?;
        let company = if first.suspect { Vec::new() } else { queue.nearest(first.work.tokens) };
        let mut filling = Filling::new(first, share, micros_max);
        for age in company {
            let unit = &queue.units[&age];
            let takes = |texts, tokens| takes(slot, texts, tokens);
            if let Some(micros) = filling.micros_with(unit, takes)
                && let Some(unit) = queue.take(age)
            {
                filling.add(unit, micros);
            }
        }
        queue.had += u64::from(filling.micros);
        Some(Group { slot, priority, items: filling.items, micros: filling.micros })
    }
}

impl Queue {
    fn take(&mut self, age: Age) -> Option<Unit> {
        let unit = self.units.remove(&age)?;
        self.micros -= u64::from(unit.work.micros);
        Some(unit)
    }

    /// The oldest units, those whose length is nearest first.
    fn nearest(&self, tokens: u32) -> Vec<Age> {
        let looked_at = self.units.iter().take(LOOKAHEAD).filter(|(_, unit)| !unit.suspect);
        let mut ages: Vec<_> =
            looked_at.map(|(age, unit)| (unit.work.tokens.abs_diff(tokens), *age)).collect();
        ages.sort_unstable();
        ages.into_iter().map(|(_, age)| age).collect()
    }
}

/// A group that is being put together.
#[derive(Debug)]
struct Filling {
    items: Vec<ItemId>,
    /// Of the longest item.
    tokens: u32,
    /// What the group takes.
    micros: u32,
    bytes: usize,
    /// Of the largest unit.
    largest_bytes: usize,
    /// What its items take alone, and how much that may be.
    alone: u64,
    share: u64,
    micros_max: u64,
}

impl Filling {
    fn new(first: Unit, share: u64, micros_max: u64) -> Self {
        let Work { tokens, micros, bytes } = first.work;
        Self {
            items: first.items,
            tokens,
            micros,
            bytes,
            largest_bytes: bytes,
            alone: micros.into(),
            share,
            micros_max,
        }
    }

    /// What the group takes with this unit, if the unit is to be in it.
    fn micros_with(&self, unit: &Unit, takes: impl Fn(usize, u32) -> u32) -> Option<u32> {
        let texts = self.items.len() + unit.items.len();
        let small = self.largest_bytes.max(unit.work.bytes) <= ALONE_BYTES || self.tokens > 1;
        let fits = texts <= GROUP_ITEMS_MAX
            && small
            && self.bytes.saturating_add(unit.work.bytes) <= GROUP_BYTES_MAX
            && self.alone + u64::from(unit.work.micros) <= self.share;
        if !fits {
            return None;
        }
        let apart = self.micros.saturating_add(unit.work.micros);
        if unit.priority == Priority::Background {
            // The worker decides what runs together: however it does, this is not exceeded.
            return (apart <= GROUP_MICROS_MIN).then_some(apart);
        }
        let together = takes(texts, self.tokens.max(unit.work.tokens));
        let added = f64::from(together) - f64::from(self.micros);
        if added <= ADDED_MAX * f64::from(unit.work.micros)
            && u64::from(together) <= self.micros_max
        {
            return Some(together);
        }
        (apart <= GROUP_MICROS_MIN).then_some(apart)
    }

    fn add(&mut self, unit: Unit, micros: u32) {
        self.items.extend(unit.items);
        self.tokens = self.tokens.max(unit.work.tokens);
        self.bytes += unit.work.bytes;
        self.largest_bytes = self.largest_bytes.max(unit.work.bytes);
        self.alone += u64::from(unit.work.micros);
        self.micros = micros;
    }
}

/// What the items of a request have in common.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The model's slot.
    pub slot: Slot,
    /// See [`Age::micros`].
    pub micros: u64,
    /// Of all items.
    pub priority: Priority,
    /// Whether all items must be computed in one group; not so for background work.
    pub together: bool,
}

/// What a new request's items are, in their order: units with their ages. `workers` is how many an
/// idle server has.
pub fn units(arrival: Arrival, items: &[(ItemId, Work)], workers: usize) -> Vec<(Age, Unit)> {
    let Arrival { slot, priority, together, .. } = arrival;
    let mut before = 0;
    let mut unit = |items: &[(ItemId, Work)]| {
        let micros = items.iter().map(|(_, work)| work.micros).sum();
        let tokens = items.iter().map(|(_, work)| work.tokens).max().unwrap_or(0);
        let bytes = items.iter().map(|(_, work)| work.bytes).sum();
        let waits = before / workers.max(1) as u64;
        let age = Age { micros: arrival.micros + waits, item: items[0].0 };
        before += u64::from(micros);
        let items = items.iter().map(|(item, _)| *item).collect();
        let work = Work { tokens, micros, bytes };
        (age, Unit { slot, priority, items, work, suspect: false })
    };
    let size = if together { GROUP_ITEMS_MAX } else { 1 };
    items.chunks(size).map(&mut unit).collect()
}

#[cfg(test)]
#[path = "scheduler_simulation_tests.rs"]
mod simulation;
#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
