//! Random events for one worker's state machine and for several together.
//! `ONNXD_SIMULATION_SEED=N cargo test -p onnxd-engine restart_simulation` replays a run.

use proptest::prelude::*;

use std::time::{Duration, Instant};

use crate::dispatch::{
    policy::{
        restarts::{BACKOFF_MAX, BACKOFF_MIN, Budget, End, SCARCE_WAIT, WINDOW},
        session::{
            Session,
            script::{end, send, serving, session, start},
            shorten_wait,
        },
    },
    worker::State,
};

const SEEDS: u64 = 400;
const STEPS: usize = 400;

/// Workers, and what the test knows about their processes.
struct World {
    random: u64,
    now: Instant,
    workers: Vec<Session>,
    has_process: Vec<bool>,
    /// The times of each worker's accidents.
    ends: Vec<Vec<Instant>>,
    restarts: Vec<u64>,
    limit: u32,
    drained: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let (now, count) = (Instant::now(), usize::try_from(1 + seed % 8).unwrap());
        let limit = u32::try_from(1 + seed / 8 % 12).unwrap();
        Self {
            workers: (0..count).map(|_| session(now, limit)).collect(),
            has_process: vec![false; count],
            ends: vec![Vec::new(); count],
            restarts: vec![0; count],
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now,
            limit,
            drained: false,
        }
    }

    /// xorshift64, so that the seed alone reproduces a run.
    fn below(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn count(&self, state: State) -> usize {
        self.workers.iter().filter(|worker| worker.state() == state).count()
    }

    /// Starts due workers and checks the invariants.
    fn start(&mut self) {
        shorten_wait(self.workers.iter_mut());
        for (worker, has_process) in self.workers.iter_mut().zip(&mut self.has_process) {
            if start(worker, self.now) {
                assert!(!*has_process, "two processes");
                assert!(!self.drained, "started after the drain");
                *has_process = true;
            }
        }
        let on_the_way =
            [State::Starting, State::Ready, State::Busy].map(|state| self.count(state));
        if on_the_way.iter().all(|&count| count == 0) && self.count(State::Backoff) > 0 {
            let first = self.workers.iter().filter_map(Session::start_at).min().unwrap();
            let soon = SCARCE_WAIT.max(BACKOFF_MIN * 10);
            assert!(first <= self.now + soon, "no worker serves for {:?}", first - self.now);
        }
        let is_waiting = |worker: &&Session| worker.state() == State::Backoff;
        assert!(self.workers.iter().filter(is_waiting).all(|worker| worker.start_at().is_some()));
    }

    fn end(&mut self, id: usize, kind: End) {
        let before = self.workers[id].state();
        assert!(kind != End::Requested || self.workers[id].recycle());
        let jitter = f64::from(u32::try_from(self.below(65)).unwrap()) / 64.0;
        let counts = end(&mut self.workers[id], self.now, kind, jitter);
        self.has_process[id] = false;
        let worker = &self.workers[id];
        if counts {
            self.ends[id].push(self.now);
        }
        match (before, worker.state()) {
            (State::Failed, after) => assert_eq!(after, State::Failed, "final"),
            (State::Draining | State::Stopped, after) => assert_eq!(after, State::Stopped),
            (_, State::Backoff) => {
                let counted = !matches!(kind, End::NotStarted | End::Requested);
                self.restarts[id] += u64::from(counted);
                let wait = worker.start_at().unwrap() - self.now;
                let soonest = if kind == End::Requested { Duration::ZERO } else { BACKOFF_MIN };
                assert!((soonest..=BACKOFF_MAX).contains(&wait), "{wait:?}");
                let recent = self.ends[id].iter().filter(|end| self.now - **end < WINDOW).count();
                assert!(recent <= self.limit as usize, "{recent} deaths exceed the limit");
            }
            (_, State::Failed) => {}
            (before, after) => panic!("{before:?} ended as {after:?}"),
        }
        assert_eq!(worker.restarts(), self.restarts[id]);
    }

    fn step(&mut self) {
        let next = self.workers.iter().filter_map(Session::start_at).min();
        self.now = match next {
            Some(next) if self.below(3) == 0 => next.max(self.now),
            _ => self.now + Duration::from_millis(self.below(4_000)),
        };
        self.start();
        let id = usize::try_from(self.below(self.workers.len() as u64)).unwrap();
        let failed = self.workers[id].state() == State::Failed;
        let what = self.below(100);
        match what {
            0..40 => self.workers[id].ready(self.now),
            40..55 => send(&mut self.workers[id], 1),
            55..70 => drop(self.workers[id].answered(1, [0].into_iter())),
            70..90 if self.has_process[id] => self.end(id, End::Accident),
            90..94 if self.has_process[id] => {
                let started = self.workers[id].state() == State::Starting;
                self.end(id, if started { End::NotStarted } else { End::Accident });
            }
            97 if self.workers[id].serves() => self.end(id, End::Requested),
            94 if self.has_process[id] => self.end(id, End::Permanent),
            95 => self.workers[id].give_up(),
            96 if self.below(20) == 0 => {
                self.drained = true;
                self.workers.iter_mut().for_each(Session::drain);
            }
            _ => {}
        }
        assert!(!failed || self.workers[id].state() == State::Failed, "failed is final");
    }
}

#[test]
fn any_sequence_of_events_restarts_some_worker_soon() {
    let mut reached = [false; State::ALL.len()];
    let replayed = std::env::var("ONNXD_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in replayed.map_or(0..SEEDS, |seed| seed..seed + 1) {
        println!("seed {seed}");
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
            for (reached, state) in reached.iter_mut().zip(State::ALL) {
                *reached |= world.count(state) > 0;
            }
        }
    }
    assert!(
        replayed.is_some() || reached == [true; State::ALL.len()],
        "some states were never reached"
    );
}

#[test]
fn too_many_deaths_within_a_minute_give_up_a_worker() {
    for (seconds, given_up) in [(5, true), (7, false)] {
        let mut now = Instant::now();
        let mut worker = serving(now, 9);
        for _ in 0..30 {
            now += Duration::from_secs(seconds);
            end(&mut worker, now, End::Accident, 0.0);
            shorten_wait(std::iter::once(&mut worker));
            start(&mut worker, now + BACKOFF_MIN);
            worker.ready(now + BACKOFF_MIN);
        }
        assert_eq!(worker.state() == State::Failed, given_up, "every {seconds} s");
    }
}

#[test]
fn recycling_restarts_at_once_however_often() {
    let mut now = Instant::now();
    let mut worker = serving(now, 3);
    for _ in 0..50 {
        assert!(worker.recycle());
        assert!(!end(&mut worker, now, End::Requested, 0.0));
        assert_eq!(worker.start_at(), Some(now));
        now += BACKOFF_MIN;
        start(&mut worker, now);
        worker.ready(now);
    }
    assert_eq!(worker.restarts(), 0);
}

#[test]
fn a_shortage_of_resources_is_retried_forever() {
    let mut now = Instant::now();
    let mut worker = session(now, 3);
    for _ in 0..100 {
        assert!(start(&mut worker, now));
        assert!(!end(&mut worker, now, End::NotStarted, 0.0), "a shortage does not count");
        shorten_wait(std::iter::once(&mut worker));
        assert_eq!(worker.start_at(), Some(now + SCARCE_WAIT));
        now += SCARCE_WAIT;
    }
    assert_eq!(worker.restarts(), 0);
}

#[test]
fn when_none_serves_only_the_shortest_wait_is_shortened() {
    let now = Instant::now();
    let mut workers = [serving(now, 100), serving(now, 100), serving(now, 100)];
    let mut then = now;
    for (deaths, worker) in [9, 8, 7].into_iter().zip(&mut workers) {
        for _ in 0..deaths {
            then = worker.start_at().unwrap_or(then);
            start(worker, then);
            worker.ready(then);
            end(worker, then, End::Accident, 0.0);
        }
    }
    let before = workers.each_ref().map(|worker| worker.start_at());
    let latest = then;
    shorten_wait(workers.iter_mut());
    let hurried: Vec<_> = (0..3).filter(|&id| workers[id].start_at() != before[id]).collect();
    let least = (0..3).min_by_key(|&id| before[id]).unwrap();
    assert_eq!(hurried, [least]);
    assert!(workers[least].start_at() <= Some(latest + BACKOFF_MIN));
    assert!(start(&mut workers[least], latest + BACKOFF_MIN));
    let before = workers.each_ref().map(|worker| worker.start_at());
    shorten_wait(workers.iter_mut());
    assert_eq!(
        workers.each_ref().map(|worker| worker.start_at()),
        before,
        "a worker is already starting"
    );
}

proptest! {
    #[test]
    fn the_shared_budget_lies_between_one_and_the_sum(
        limit in 1..10_000_u32, workers in 1..200_usize,
    ) {
        let all = Budget::shared(limit, workers).limit();
        prop_assert!(all > limit);
        prop_assert!(u64::from(all) <= u64::from(limit) * workers as u64 || workers == 1 || limit == 1);
    }
}

#[test]
fn deaths_expire_but_an_exceeded_budget_is_remembered() {
    assert_eq!([1, 2, 3, 8].map(|workers| Budget::shared(10, workers).limit()), [11, 15, 20, 45]);
    let start = Instant::now();
    let mut budget = Budget::per_worker(2);
    let mut spend = |seconds| {
        let within = budget.spend(start + Duration::from_secs(seconds));
        (within, budget.is_exceeded())
    };
    assert_eq!([spend(0), spend(30), spend(60), spend(90)], [(true, false); 4]);
    assert_eq!(spend(100), (false, true));
    assert_eq!(spend(1000), (true, true));
}
