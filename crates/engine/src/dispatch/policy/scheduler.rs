//! One queue for all workers. Decides which items form the next group for a free worker. Pure:
//! works on numbers and times passed in, without sockets or a clock.
//!
//! - Work is bound late: items wait here until a worker is free. None is stuck behind a long group
//!   while another worker sleeps.
//! - The oldest item of a model is always in the model's next group. The items of a large request
//!   age as if the client had sent them one by one, as fast as an idle server answers. So a client
//!   that sends 32 at once does not delay a client that sends one.
//! - Among models with queued work, the next turn goes to the one that has used the least time. A
//!   model without work accumulates no credit (start-time fair queueing: Goyal, Vin and Cheng,
//!   1996). So a slow model delays a fast one only by the group that is running.
//! - Background work gets what interactive work of any model leaves. A worker that may run an
//!   interactive item gets that first, and the two never share a group. A background group is one
//!   item, or several that take at most [`GROUP_MICROS_MIN`] one after the other. An arriving
//!   interactive item waits at most for one such group. Background work has no guaranteed share and
//!   waits for as long as interactive work keeps all workers busy.
//! - A group is the oldest item plus others of similar length, as long as running them together
//!   saves time. If several workers are free, a group takes no more than its share of the queue.

use std::collections::BTreeMap;

use onnxd_proto::{
    control_page::Slot,
    limits::{FRAME_PAYLOAD_BYTES_MAX, GROUP_ITEMS_MAX},
};

use crate::dispatch::{item::Priority, policy::estimate::Work};

/// The number of an item.
pub type ItemId = u64;

/// A group takes at most about this long, in microseconds, unless a single unit takes longer. A
/// short text that arrives late waits for the running group, and workers check the generation only
/// between groups.
const GROUP_MICROS_MAX: u64 = 25_000;
/// With a long queue, a group may take this fraction of it: everything waits longer anyway, and
/// larger groups waste less.
const GROUP_PART: u64 = 12;
/// A group may always take this long, in microseconds, even if running items together saves
/// nothing: sending a group costs a few dozen microseconds.
pub(crate) const GROUP_MICROS_MIN: u32 = 1_500;
/// The most that one more text may add to a run, as a fraction of its cost in a separate run.
const ADDED_MAX: f64 = 0.9;
/// How many of the oldest units are considered when a group is filled.
const LOOKAHEAD: usize = 64;
/// Larger tensors get a group of their own: they run separately anyway and take long to send.
const SEPARATE_BYTES: usize = 128 * 1024;
/// Maximum bytes of a group with several units: half a frame, so that texts always fit.
const GROUP_BYTES_MAX: usize = FRAME_PAYLOAD_BYTES_MAX / 2;

const _: () = assert!(GROUP_BYTES_MAX < FRAME_PAYLOAD_BYTES_MAX);

/// The age of queued work: the smallest is the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// Microseconds since the server started. Later than the arrival for all but the first item of
    /// a request; see the module documentation.
    pub micros: u64,
    /// The item's number, which breaks ties.
    pub item: ItemId,
}

/// Items that are handed out together; usually one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub slot: Slot,
    /// The priority of all its items.
    pub priority: Priority,
    /// From 1 to [`GROUP_ITEMS_MAX`]; exactly one for background work.
    pub items: Vec<ItemId>,
    /// The tokens of the longest item, with the time and bytes of all.
    pub work: Work,
    /// Whether a worker has failed on it. It then runs alone in its group, so that other items
    /// do not suffer.
    pub suspect: bool,
}

/// The contents of one frame for a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub slot: Slot,
    /// The priority of all its items.
    pub priority: Priority,
    /// Oldest first.
    pub items: Vec<ItemId>,
    /// The estimated time.
    pub micros: u32,
}

/// Corrects the account of a model once the actual time of a group is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    pub slot: Slot,
    /// The priority of the group.
    pub priority: Priority,
    /// The estimated time of the group, in microseconds.
    pub estimated: u64,
    /// The actual time.
    pub took: u64,
}

/// The queued work.
#[derive(Debug, Default)]
pub struct Scheduler {
    interactive: Class,
    background: Class,
}

/// The queued work of one priority. The time accounts of both priorities are independent.
#[derive(Debug, Default)]
struct Class {
    queues: BTreeMap<Slot, Queue>,
    /// The account of the model with the latest turn, before that turn, in microseconds.
    turn: u64,
}

/// The queued work of one model.
#[derive(Debug, Default)]
struct Queue {
    units: BTreeMap<Age, Unit>,
    /// The total work, in microseconds.
    micros: u64,
    /// The model's account: the time that it has used, in microseconds, raised when it was without
    /// work.
    used: u64,
    /// The account when the model last became active. Corrections for earlier groups cannot lower
    /// it below this value.
    floor: u64,
}

impl Scheduler {
    /// Queues a unit.
    pub fn push(&mut self, age: Age, unit: Unit) {
        debug_assert!((1..=GROUP_ITEMS_MAX).contains(&unit.items.len()));
        debug_assert!(unit.priority == Priority::Interactive || unit.items.len() == 1);
        self.class(unit.priority).push(age, unit);
    }

    /// Returns whether the queue is empty.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let all = [&self.interactive, &self.background];
        all.iter().flat_map(|class| class.queues.values()).all(|queue| queue.units.is_empty())
    }

    /// Returns the total time of the work that a new item of this priority waits for.
    pub fn micros(&self, priority: Priority) -> u64 {
        match priority {
            Priority::Interactive => self.interactive.micros(),
            Priority::Background => self.interactive.micros() + self.background.micros(),
        }
    }

    /// Replaces the estimated time of a group with the actual one.
    pub fn correct(&mut self, charge: Charge) {
        let Charge { slot, priority, estimated, took } = charge;
        if let Some(queue) = self.class(priority).queues.get_mut(&slot) {
            let used = queue.used.saturating_sub(estimated).saturating_add(took);
            queue.used = used.max(queue.floor.min(queue.used));
        }
    }

    /// Removes background items that no client is waiting for. Interactive items soon reach the
    /// head of the queue. Background items may wait for as long as interactive work keeps workers
    /// busy, and would hold their memory and queue permits.
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

    /// Removes everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the group for one free worker: the oldest unit of the model whose turn it is, and
    /// others that run well with it. `free` returns how many free workers may run work of a model
    /// and a priority. `run_micros` returns the time of a run, given the number of texts and the tokens
    /// of the longest.
    pub fn next(
        &mut self,
        free: impl Fn(Slot, Priority) -> usize,
        run_micros: impl Fn(Slot, usize, u32) -> u32,
    ) -> Option<Group> {
        [Priority::Interactive, Priority::Background].into_iter().find_map(|priority| {
            self.class(priority).next(priority, |slot| free(slot, priority), &run_micros)
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
            queue.used = queue.used.max(self.turn);
            queue.floor = queue.used;
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
        run_micros: impl Fn(Slot, usize, u32) -> u32,
    ) -> Option<Group> {
        let oldest =
            |(slot, queue): (&Slot, &Queue)| Some((queue.used, *queue.units.keys().next()?, *slot));
        let has_free_worker = |(_, _, slot): &(u64, Age, Slot)| free(*slot) > 0;
        let (used, age, slot) =
            self.queues.iter().filter_map(oldest).filter(has_free_worker).min()?;
        self.turn = used;
        let queue = self.queues.get_mut(&slot)?;
        let share_micros = queue.micros.div_ceil(u64::try_from(free(slot)).unwrap_or(1));
        let micros_max = GROUP_MICROS_MAX.max(queue.micros / GROUP_PART);
        let first = queue.take(age)?;
        let candidates = if first.suspect { Vec::new() } else { queue.nearest(first.work.tokens) };
        let mut builder = GroupBuilder::new(first, share_micros, micros_max);
        for age in candidates {
            let unit = &queue.units[&age];
            let run_micros = |texts, tokens| run_micros(slot, texts, tokens);
            if let Some(micros) = builder.micros_with(unit, run_micros)
                && let Some(unit) = queue.take(age)
            {
                builder.add(unit, micros);
            }
        }
        queue.used += u64::from(builder.micros);
        Some(Group { slot, priority, items: builder.items, micros: builder.micros })
    }
}

impl Queue {
    fn take(&mut self, age: Age) -> Option<Unit> {
        let unit = self.units.remove(&age)?;
        self.micros -= u64::from(unit.work.micros);
        Some(unit)
    }

    /// Returns the oldest units, nearest in length first.
    fn nearest(&self, tokens: u32) -> Vec<Age> {
        let candidates = self.units.iter().take(LOOKAHEAD).filter(|(_, unit)| !unit.suspect);
        let mut ages: Vec<_> =
            candidates.map(|(age, unit)| (unit.work.tokens.abs_diff(tokens), *age)).collect();
        ages.sort_unstable();
        ages.into_iter().map(|(_, age)| age).collect()
    }
}

/// A group being assembled.
#[derive(Debug)]
struct GroupBuilder {
    items: Vec<ItemId>,
    /// Of the longest item.
    tokens: u32,
    /// The estimated time of the group.
    micros: u32,
    bytes: usize,
    /// Of the largest unit.
    largest_bytes: usize,
    /// The total time of its items in separate runs, and the limit for it.
    separate_micros: u64,
    share_micros: u64,
    micros_max: u64,
}

impl GroupBuilder {
    fn new(first: Unit, share_micros: u64, micros_max: u64) -> Self {
        let Work { tokens, micros, bytes } = first.work;
        Self {
            items: first.items,
            tokens,
            micros,
            bytes,
            largest_bytes: bytes,
            separate_micros: micros.into(),
            share_micros,
            micros_max,
        }
    }

    /// Returns the time of the group with this unit added, or `None` if the unit should not be
    /// added.
    fn micros_with(&self, unit: &Unit, run_micros: impl Fn(usize, u32) -> u32) -> Option<u32> {
        let texts = self.items.len() + unit.items.len();
        let small = self.largest_bytes.max(unit.work.bytes) <= SEPARATE_BYTES || self.tokens > 1;
        let fits = texts <= GROUP_ITEMS_MAX
            && small
            && self.bytes.saturating_add(unit.work.bytes) <= GROUP_BYTES_MAX
            && self.separate_micros + u64::from(unit.work.micros) <= self.share_micros;
        if !fits {
            return None;
        }
        let separate = self.micros.saturating_add(unit.work.micros);
        if unit.priority == Priority::Background {
            // The worker decides what runs together; this bound holds either way.
            return (separate <= GROUP_MICROS_MIN).then_some(separate);
        }
        let together = run_micros(texts, self.tokens.max(unit.work.tokens));
        let added = f64::from(together) - f64::from(self.micros);
        if added <= ADDED_MAX * f64::from(unit.work.micros)
            && u64::from(together) <= self.micros_max
        {
            return Some(together);
        }
        (separate <= GROUP_MICROS_MIN).then_some(separate)
    }

    fn add(&mut self, unit: Unit, micros: u32) {
        self.items.extend(unit.items);
        self.tokens = self.tokens.max(unit.work.tokens);
        self.bytes += unit.work.bytes;
        self.largest_bytes = self.largest_bytes.max(unit.work.bytes);
        self.separate_micros += u64::from(unit.work.micros);
        self.micros = micros;
    }
}

/// The properties that all items of a request share.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub slot: Slot,
    /// See [`Age::micros`].
    pub micros: u64,
    /// The priority of all items.
    pub priority: Priority,
    /// Whether all items must be computed in one group. Never set for background work.
    pub together: bool,
}

/// Splits a new request into units with their ages, in request order. `workers` is the number of
/// workers of an idle server.
pub fn units(arrival: Arrival, items: &[(ItemId, Work)], workers: usize) -> Vec<(Age, Unit)> {
    let Arrival { slot, priority, together, .. } = arrival;
    let mut before = 0;
    let mut unit = |items: &[(ItemId, Work)]| {
        let micros = items.iter().map(|(_, work)| work.micros).sum();
        let tokens = items.iter().map(|(_, work)| work.tokens).max().unwrap_or(0);
        let bytes = items.iter().map(|(_, work)| work.bytes).sum();
        let delay = before / workers.max(1) as u64;
        let age = Age { micros: arrival.micros + delay, item: items[0].0 };
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
