//! Simulates the queue with random workers and clients.
//! `ONNXD_SIMULATION_SEED=N cargo test -p onnxd-engine scheduler` replays a run.

use std::collections::{BTreeMap, BTreeSet};

use crate::dispatch::policy::scheduler::{
    tests::{INTERACTIVE, age, arrival, run_micros, work},
    *,
};

/// Workers that compute, clients that come and go, and the queue between them.
struct World {
    scheduler: Scheduler,
    now: u64,
    random: u64,
    /// When each worker finishes its group, and the group's items.
    workers: Vec<Option<(u64, Vec<ItemId>)>>,
    waiting: BTreeMap<ItemId, (Age, Work)>,
    /// The model of every item that ever arrived.
    slots: BTreeMap<ItemId, Slot>,
    answered: BTreeSet<ItemId>,
    last: ItemId,
}

impl World {
    fn new(seed: u64) -> Self {
        let workers = vec![None; usize::try_from(1 + seed % 4).unwrap()];
        Self {
            scheduler: Scheduler::default(),
            now: 0,
            random: seed | 1,
            workers,
            waiting: BTreeMap::new(),
            slots: BTreeMap::new(),
            answered: BTreeSet::new(),
            last: 0,
        }
    }

    /// xorshift64, so that the seed alone reproduces a run.
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn arrive(&mut self) {
        let count = if self.draw(8) == 0 { 2 + self.draw(31) } else { 1 };
        let together = self.draw(20) == 0;
        let slot = u16::try_from(self.draw(2)).unwrap();
        let items: Vec<(ItemId, Work)> = (0..count)
            .map(|_| {
                self.last += 1;
                let long = self.draw(4) == 0;
                let tokens = 3 + self.draw(if long { 250 } else { 20 });
                (self.last, work(u32::try_from(tokens).unwrap()))
            })
            .collect();
        for (age, unit) in units(arrival(slot, self.now, together), &items, self.workers.len()) {
            for (item, work) in items.iter().filter(|(item, _)| unit.items.contains(item)) {
                self.waiting.insert(*item, (age, *work));
                self.slots.insert(*item, slot);
            }
            self.scheduler.push(age, unit);
        }
    }

    fn hand_out(&mut self, seed: u64) {
        loop {
            let free = self.workers.iter().filter(|worker| worker.is_none()).count();
            let group =
                self.scheduler.next(|_, _| free, |_, texts, tokens| run_micros(texts, tokens));
            let Some(group) = group else { break };
            assert!(free > 0, "seed {seed}: group without a free worker");
            let of_model = self.waiting.iter().filter(|(item, _)| self.slots[item] == group.slot);
            let oldest = of_model.map(|(_, (age, _))| *age).min().unwrap();
            let in_group = |age: Age| group.items.iter().any(|item| self.waiting[item].0 == age);
            assert!(in_group(oldest), "seed {seed}: the model's oldest item is left out");
            let tokens = group.items.iter().map(|item| self.waiting[item].1.tokens).max().unwrap();
            for item in &group.items {
                self.waiting.remove(item).unwrap();
            }
            let done = self.now + u64::from(run_micros(group.items.len(), tokens));
            let worker = self.workers.iter_mut().find(|worker| worker.is_none()).unwrap();
            *worker = Some((done, group.items));
        }
        let idle = self.workers.iter().any(Option::is_none);
        assert!(!idle || self.waiting.is_empty(), "seed {seed}: a worker idles while work waits");
        assert_eq!(self.scheduler.is_empty(), self.waiting.is_empty(), "seed {seed}");
        let all: u64 = self.waiting.values().map(|(_, work)| u64::from(work.micros)).sum();
        assert_eq!(self.scheduler.micros(INTERACTIVE), all, "seed {seed}");
    }

    /// The first worker that finishes either answers its items, or dies and they are requeued.
    fn finish_one(&mut self, dies: bool) {
        let done = |worker: &Option<(u64, Vec<ItemId>)>| worker.as_ref().map(|(done, _)| *done);
        let Some(first) = self.workers.iter().filter_map(done).min() else { return };
        let index = self.workers.iter().position(|worker| done(worker) == Some(first)).unwrap();
        let (done, items) = self.workers[index].take().unwrap();
        self.now = self.now.max(done);
        for item in items {
            if dies {
                let (age, work) = (age(item), work(10));
                self.waiting.insert(item, (age, work));
                let slot = self.slots[&item];
                self.scheduler.push(
                    age,
                    Unit { slot, priority: INTERACTIVE, items: vec![item], work, suspect: false },
                );
            } else {
                assert!(self.answered.insert(item), "answered twice");
            }
        }
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..300 {
        match world.draw(10) {
            0..5 => {
                world.now += world.random % 5000;
                world.arrive();
            }
            5 => world.finish_one(true),
            _ => world.finish_one(false),
        }
        world.hand_out(seed);
    }
    for _ in 0..10_000 {
        world.finish_one(false);
        world.hand_out(seed);
    }
    let all: BTreeSet<ItemId> = (1..=world.last).collect();
    assert_eq!(world.answered, all, "seed {seed}: not every item is answered once");
}

#[test]
fn no_worker_idles_and_every_item_is_answered_once() {
    if let Some(seed) =
        std::env::var("ONNXD_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok())
    {
        return simulate(seed);
    }
    (1..400).for_each(simulate);
}
