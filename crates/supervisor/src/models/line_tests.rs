//! What a line of updates promises, alone and in a simulation whose every run is named by its
//! seed: `ONNXD_SIMULATION_SEED=N cargo test -p onnxd line` replays one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    super::pace::{BURST, INTERVAL},
    *,
};

const TIMES: Times =
    Times { load_ahead: Duration::from_secs(10), probation: Duration::from_secs(60) };

pub(super) fn job(version: &str, load: Load) -> Job {
    let target = Target::Version(version.to_owned());
    Job { target, load, force: false, allow_dimension_change: false }
}

fn candidate(version: &str) -> Candidate {
    Candidate { version: version.to_owned(), unchecked: false, quarantined: false, durable: None }
}

/// Plays what surrounds a line: it does what the line asks for and tells the outcome, in the
/// order and with the failures that a stream of random numbers says.
pub(super) struct World {
    pub(super) line: Line,
    pub(super) now: Instant,
    random: u64,
    /// Actions that are under way.
    pub(super) pending: Vec<Action>,
    workers: usize,
    calls: BTreeMap<CallId, Job>,
    /// Those of the calls that want the model, whatever its content.
    wants: Vec<CallId>,
    /// What a start found durable.
    durable: Option<(Generation, Version)>,
    /// What the control page says; 0 is none.
    pub(super) page: Generation,
    pub(super) loads: u32,
    pub(super) answers: BTreeMap<CallId, Result<Committed, Refusal>>,
    pub(super) commits: Vec<(Generation, Version)>,
    recorded: BTreeMap<Generation, Version>,
    pub(super) quarantined: Vec<Version>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            line: Line::new(0, None, TIMES),
            now: Instant::now(),
            random: seed | 1,
            pending: Vec::new(),
            workers: 3,
            calls: BTreeMap::new(),
            wants: Vec::new(),
            durable: None,
            page: 0,
            loads: 0,
            answers: BTreeMap::new(),
            commits: Vec::new(),
            recorded: BTreeMap::new(),
            quarantined: Vec::new(),
        }
    }

    /// xorshift64, so that a seed is all it takes to see a run again.
    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    pub(super) fn tell(&mut self, event: Event) {
        for action in self.line.handle(self.now, event) {
            match action {
                Action::Answer(call, result) => {
                    if let (true, Ok(served)) = (self.wants.contains(&call), &result) {
                        assert_eq!(served.generation, self.page, "what is wanted serves");
                    }
                    let known = self.calls.contains_key(&call);
                    assert!(known, "nobody asked as {call}");
                    let before = self.answers.insert(call, result);
                    assert!(before.is_none(), "caller {call} was answered twice");
                }
                Action::Commit(generation) => {
                    let version = self.recorded.get(&generation);
                    let version = version.expect("what is committed is durable").clone();
                    let last = self.commits.last().map_or(0, |(generation, _)| *generation);
                    assert!(generation > last, "numbers only rise");
                    self.commits.push((generation, version));
                    self.page = generation;
                }
                Action::Quarantine(version) => self.quarantined.push(version),
                Action::AnnounceRollback { .. }
                | Action::RollbackFailed(_)
                | Action::Forget
                | Action::Discard => {}
                Action::Unload => {
                    self.page = 0;
                    self.pending.push(Action::Unload);
                }
                action => self.pending.push(action),
            }
        }
    }

    pub(super) fn call(&mut self, job: Job) {
        let id = self.calls.len() as CallId;
        self.calls.insert(id, job.clone());
        self.tell(Event::Called(id, job));
    }

    pub(super) fn want(&mut self) {
        let id = self.calls.len() as CallId;
        self.calls.insert(id, Job { target: Target::Last, ..job("", Load::Lazy) });
        self.wants.push(id);
        self.tell(Event::Wanted(id, Load::Ahead));
    }

    /// A line that nobody has used yet, whose last generation before the start was 3.
    pub(super) fn restarted(seed: u64) -> Self {
        let durable = (3, "v0".to_owned());
        let mut world = Self { line: Line::new(5, None, TIMES), ..Self::new(seed) };
        world.recorded.insert(3, durable.1.clone());
        world.durable = Some(durable);
        world
    }

    /// Finishes one thing that is under way; `luck` of ten it goes well.
    pub(super) fn finish_one(&mut self, luck: u64) {
        if self.pending.is_empty() {
            return;
        }
        let place = usize::try_from(self.draw(self.pending.len() as u64)).unwrap();
        let well = self.draw(10) < luck;
        let bad = || RefusalKind::Internal.because("the simulation says so");
        match self.pending.remove(place) {
            Action::Stage(job) => {
                self.loads += 1;
                let unchecked = self.draw(2) == 0;
                let candidate = match (job.target, self.durable.clone()) {
                    (Target::Version(version), _) => {
                        let quarantined = self.quarantined.contains(&version);
                        Candidate { version, unchecked, quarantined, durable: None }
                    }
                    (Target::Last, Some((generation, version))) => {
                        let durable = Some(generation);
                        Candidate { durable, ..candidate(&version) }
                    }
                    (Target::Last, None) => Candidate { unchecked, ..candidate("source") },
                    other => unreachable!("{other:?}"),
                };
                self.tell(Event::Staged(if well { Ok(candidate) } else { Err(bad()) }));
            }
            Action::Check(_) => self.tell(Event::Checked(if well { Ok(()) } else { Err(bad()) })),
            Action::AskWorkers => self.tell(Event::Workers((0..self.workers).collect())),
            Action::LoadAhead(worker, version) => {
                let result = if well { Ok(()) } else { Err("no memory".to_owned()) };
                self.tell(Event::Loaded(worker, version, result));
            }
            Action::Record(generation, version) => {
                assert!(!self.recorded.contains_key(&generation), "numbers are never reused");
                if well {
                    self.recorded.insert(generation, version);
                }
                self.tell(Event::Recorded(if well { Ok(()) } else { Err(bad()) }));
            }
            Action::Drain => self.tell(Event::Drained),
            Action::Unload => self.tell(Event::Unloaded),
            other => unreachable!("{other:?}"),
        }
    }

    /// Lets everything come to rest.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.pending.is_empty() {
                assert!(self.line.running.is_none());
                let Some(deadline) = self.line.deadline() else {
                    assert!(self.line.waiting.is_none());
                    return;
                };
                self.now = self.now.max(deadline);
                self.tell(Event::Ticked);
                continue;
            }
            self.finish_one(10);
        }
        panic!("the line does not come to rest");
    }

    fn step(&mut self) {
        let pause = self.draw(2000);
        self.now += Duration::from_millis(pause);
        match self.draw(15) {
            0..3 => {
                let version = format!("v{}", self.draw(4));
                let load = if self.draw(2) == 0 { Load::Ahead } else { Load::Lazy };
                self.call(job(&version, load));
            }
            3 => {
                let worker = usize::try_from(self.draw(3)).unwrap();
                let ended = self.draw(2) == 0;
                let event = if ended { Event::WorkerEnded } else { Event::WorkerAbsent };
                self.tell(event(worker));
            }
            4 => {
                let generation = self.commits.last().map_or(0, |(generation, _)| *generation);
                self.tell(Event::WorkerFailed(generation));
            }
            5 => self.tell(Event::Ticked),
            6 => self.call(Job::unload()),
            7 => self.want(),
            _ => self.finish_one(8),
        }
    }
}

fn simulate(seed: u64) {
    let mut world = if seed.is_multiple_of(2) { World::new(seed) } else { World::restarted(seed) };
    for _ in 0..200 {
        world.step();
    }
    world.settle();
    for (call, job) in &world.calls {
        let answer = world.answers.get(call);
        let answer = answer.unwrap_or_else(|| panic!("seed {seed}: call {call} has no answer"));
        let Ok(committed) = answer else { continue };
        match &job.target {
            Target::Version(version) => {
                assert_eq!(
                    &committed.version, version,
                    "seed {seed}: an answer for another content"
                );
            }
            Target::Nothing => {
                assert_eq!(committed.generation, 0, "seed {seed}: something serves");
                continue;
            }
            _ => {}
        }
        let pair = (committed.generation, committed.version.clone());
        assert!(world.commits.contains(&pair), "seed {seed}: an answer without a commit");
    }
    let serving = world.line.serving.clone();
    let served = serving.as_ref().map_or(0, |(generation, _)| *generation);
    assert_eq!(served, world.page, "seed {seed}: what serves is what workers are told");
    if let Some(serving) = serving {
        assert_eq!(Some(&serving), world.commits.last(), "seed {seed}: the last commit serves");
    }
    assert!(world.line.wanted.is_empty(), "seed {seed}: somebody waits in vain");
}

#[test]
fn whatever_fails_whenever_every_caller_is_answered_once_and_numbers_only_rise() {
    if let Some(seed) =
        std::env::var("ONNXD_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok())
    {
        return simulate(seed);
    }
    (1..2000).for_each(simulate);
}

proptest! {
    #[test]
    fn a_seed_is_a_run(seed: u64) {
        simulate(seed);
    }
}

/// A world that serves version `a` as generation 1 and has put `b` on probation as 2.
pub(super) fn on_probation() -> World {
    let mut world = World::new(7);
    world.call(job("a", Load::Ahead));
    world.settle();
    world.call(job("b", Load::Ahead));
    world.settle();
    assert_eq!(world.commits, [(1, "a".to_owned()), (2, "b".to_owned())]);
    world
}

#[test]
fn a_version_whose_workers_fail_twice_goes_back_by_itself_and_is_refused_later() {
    let mut world = on_probation();
    world.tell(Event::WorkerFailed(2));
    assert!(world.quarantined.is_empty());
    world.now += TIMES.probation - Duration::from_secs(1);
    world.tell(Event::WorkerFailed(2));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "a".to_owned())));
    assert_eq!(world.quarantined, ["b"]);
    world.call(job("b", Load::Ahead));
    world.settle();
    let refusal = world.answers[&2].as_ref().unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Quarantined);
    world.call(Job { force: true, ..job("b", Load::Ahead) });
    world.settle();
    assert!(world.answers[&3].is_ok());
}

#[test]
fn what_failed_while_the_next_update_was_on_its_way_is_quarantined_and_nothing_to_go_back_to() {
    let mut world = on_probation();
    world.call(job("c", Load::Lazy));
    world.tell(Event::WorkerFailed(2));
    world.tell(Event::WorkerFailed(2));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "c".to_owned())));
    assert_eq!(world.quarantined, ["b"]);
    world.tell(Event::WorkerFailed(3));
    world.tell(Event::WorkerFailed(3));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(4, "a".to_owned())));
}

#[test]
fn failures_of_a_version_do_not_count_when_it_comes_again_after_another() {
    let mut world = on_probation();
    for (generation, version) in [(2, "a"), (3, "b"), (4, "a"), (5, "b")] {
        world.tell(Event::WorkerFailed(generation));
        world.call(job(version, Load::Lazy));
        world.settle();
    }
    assert_eq!(world.commits.last(), Some(&(6, "b".to_owned())), "and nothing went back");
    assert!(world.quarantined.is_empty());
}

#[test]
fn going_back_that_fails_is_tried_again_after_two_further_failures() {
    let mut world = on_probation();
    world.tell(Event::WorkerFailed(2));
    world.tell(Event::WorkerFailed(2));
    world.finish_one(0);
    assert_eq!(world.commits.len(), 2, "nothing could be staged");
    world.tell(Event::WorkerFailed(2));
    world.tell(Event::WorkerFailed(2));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "a".to_owned())));
}

#[test]
fn failures_after_the_probation_or_of_another_generation_change_nothing() {
    let mut world = on_probation();
    world.tell(Event::WorkerFailed(1));
    world.tell(Event::WorkerFailed(1));
    world.tell(Event::WorkerFailed(2));
    world.now += TIMES.probation;
    world.tell(Event::WorkerFailed(2));
    world.tell(Event::WorkerFailed(2));
    world.settle();
    assert_eq!(world.commits.len(), 2);
}

#[test]
fn the_newest_call_wins_and_those_it_took_the_place_of_are_told() {
    let mut world = on_probation();
    for version in ["c", "d", "e", "f"] {
        world.call(job(version, Load::Lazy));
    }
    world.settle();
    let versions: Vec<&str> = world.commits.iter().map(|(_, version)| version.as_str()).collect();
    assert_eq!(versions, ["a", "b", "c", "f"]);
    for call in [3, 4] {
        let refusal = world.answers[&call].as_ref().unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Superseded);
        assert!(refusal.message.contains("generation 4"), "{refusal}");
    }
}

#[test]
fn in_a_storm_updates_keep_their_pace_and_the_newest_still_wins() {
    let mut world = World::new(7);
    let begin = world.now;
    for number in 0..1000 {
        world.now = begin + Duration::from_millis(number);
        world.tell(Event::Ticked);
        world.call(job(&format!("v{}", number % 2), Load::Lazy));
        while !world.pending.is_empty() {
            world.finish_one(10);
        }
    }
    let commits = world.commits.len();
    assert!((20..=28).contains(&commits), "{commits} in a second, {BURST} of them at once");
    world.settle();
    assert_eq!(world.commits.last().unwrap().1, "v1");
    assert!(world.now - begin <= Duration::from_secs(1) + INTERVAL, "soon after the last call");
}

#[test]
fn one_worker_after_the_other_loads_ahead_and_a_slow_or_dead_one_holds_nothing_up() {
    let mut line = Line::new(0, Some((0, "a".into())), TIMES);
    let now = Instant::now();
    line.handle(now, Event::Called(0, job("b", Load::Ahead)));
    let asked = line.handle(now, Event::Staged(Ok(candidate("b"))));
    assert_eq!(asked, [Action::AskWorkers]);
    let first = line.handle(now, Event::Workers(vec![0, 1, 2]));
    assert_eq!(first, [Action::LoadAhead(0, "b".into())]);
    let second = line.handle(now, Event::Loaded(0, "b".into(), Ok(())));
    assert_eq!(second, [Action::LoadAhead(1, "b".into())]);
    let third = line.handle(now, Event::WorkerEnded(1));
    assert_eq!(third, [Action::LoadAhead(2, "b".into())]);
    assert!(line.handle(now, Event::Ticked).is_empty());
    let late = line.deadline().unwrap();
    assert_eq!(line.handle(late, Event::Ticked), [Action::Record(1, "b".into())]);
    assert!(line.handle(late, Event::Loaded(2, "b".into(), Ok(()))).is_empty());
}

#[test]
fn a_version_that_ends_every_worker_that_loads_it_is_not_committed() {
    let asked = |first: Event, second: Event| {
        let mut line = Line::new(1, Some((1, "a".into())), TIMES);
        let now = Instant::now();
        line.handle(now, Event::Called(0, job("b", Load::Ahead)));
        line.handle(now, Event::Staged(Ok(candidate("b"))));
        line.handle(now, Event::Workers(vec![0, 1]));
        line.handle(now, first);
        line.handle(now, second)
    };
    let refused = asked(Event::WorkerEnded(0), Event::WorkerEnded(1));
    let [Action::Answer(0, Err(refusal)), Action::Forget] = &refused[..] else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal.kind, RefusalKind::Crash);
    let recorded = [Action::Record(2, "b".into())];
    let loaded = Event::Loaded(1, "b".into(), Ok(()));
    assert_eq!(asked(Event::WorkerEnded(0), loaded), recorded);
    assert_eq!(asked(Event::WorkerAbsent(0), Event::WorkerAbsent(1)), recorded);
}

#[test]
fn a_worker_that_cannot_load_ahead_ends_the_update_before_anything_is_committed() {
    let mut world = on_probation();
    world.call(job("c", Load::Ahead));
    while !matches!(world.pending[..], [Action::LoadAhead(..)]) {
        world.finish_one(10);
    }
    world.finish_one(0);
    assert_eq!(world.answers[&2].as_ref().unwrap_err().kind, RefusalKind::Load);
    assert_eq!(world.commits.len(), 2);
}

#[test]
fn the_same_content_is_a_new_generation_and_nothing_is_loaded() {
    let mut world = on_probation();
    world.call(job("b", Load::Ahead));
    world.finish_one(10);
    if let [Action::Check(_)] = world.pending[..] {
        world.finish_one(10);
    }
    assert_eq!(world.pending, [Action::Record(3, "b".into())]);
}

#[test]
fn a_line_that_is_stopped_answers_everybody_and_decides_nothing_more() {
    let mut world = on_probation();
    world.call(job("c", Load::Ahead));
    world.call(job("d", Load::Ahead));
    world.tell(Event::Stopped);
    world.call(job("e", Load::Ahead));
    world.settle();
    for call in 2..5 {
        assert_eq!(world.answers[&call].as_ref().unwrap_err().kind, RefusalKind::Busy);
    }
    assert_eq!(world.commits.len(), 2);
}
