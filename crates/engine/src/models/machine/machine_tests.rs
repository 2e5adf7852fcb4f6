//! Update machine tests, including a simulation. Replay a run by its seed:
//! `ONNXD_SIMULATION_SEED=N cargo test -p onnxd-engine machine`.

use proptest::prelude::*;

use crate::models::machine::{
    events::{Cause, Stop},
    pace::{BURST, INTERVAL},
    world::{Machine, TIMES, Text, World, candidate, job, on_probation, worker_failed},
    *,
};
use crate::models::requester::Requester;

/// Returns the action that completes the indexes for `version`, which replaces another.
fn index(version: &str, load: Load) -> Action<Text> {
    Action::Index(job(version, load), version.to_owned())
}

/// Returns the proposal of `version` as the generation after `after`.
fn propose(version: &str, after: Generation) -> Action<Text> {
    Action::Propose(Proposal { version: version.to_owned(), after })
}

fn simulate(seed: u64) {
    let mut world = if seed.is_multiple_of(2) { World::new(seed) } else { World::restarted(seed) };
    for _ in 0..200 {
        world.step();
    }
    (0..world.pauses).for_each(|_| world.resume());
    if seed.is_multiple_of(3) {
        world.handle(Event::Stopped(Stop::Stopping));
    }
    world.settle();
    for (call, job) in &world.calls {
        let answer = world.answers.get(call);
        let answer = answer.unwrap_or_else(|| panic!("seed {seed}: call {call} has no answer"));
        let Ok(committed) = answer else { continue };
        match &job.target {
            Target::Version(version) => {
                assert_eq!(&committed.version, version, "seed {seed}: an answer for other content");
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
    let serving = world.machine.serving.clone();
    let served = serving.as_ref().map_or(0, |(generation, _)| *generation);
    assert_eq!(served, world.page, "seed {seed}: the machine and the control page disagree");
    if let Some(serving) = serving {
        assert_eq!(Some(&serving), world.commits.last(), "seed {seed}: the last commit serves");
    }
    assert!(world.machine.pending.is_empty(), "seed {seed}: a caller is never answered");
}

#[test]
fn every_caller_is_answered_once_under_any_failures() {
    if let Some(seed) =
        std::env::var("ONNXD_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok())
    {
        return simulate(seed);
    }
    (1..2000).for_each(simulate);
}

proptest! {
    #[test]
    fn random_seeds_keep_the_promises(seed: u64) {
        simulate(seed);
    }
}

#[test]
fn two_worker_failures_roll_back_and_quarantine_the_version() {
    let mut world = on_probation();
    world.handle(worker_failed(2));
    assert!(world.quarantined.is_empty());
    world.now += TIMES.probation - Duration::from_secs(1);
    world.handle(worker_failed(2));
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
fn version_failing_during_the_next_update_is_no_rollback_target() {
    let mut world = on_probation();
    world.call(job("c", Load::Lazy));
    world.run_to_proposal();
    world.handle(worker_failed(2));
    world.handle(worker_failed(2));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "c".to_owned())));
    assert_eq!(world.quarantined, ["b"]);
    world.handle(worker_failed(3));
    world.handle(worker_failed(3));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(4, "a".to_owned())));
}

#[test]
fn failures_do_not_carry_over_to_a_later_commit_of_a_version() {
    let mut world = on_probation();
    for (generation, version) in [(2, "a"), (3, "b"), (4, "a"), (5, "b")] {
        world.handle(worker_failed(generation));
        world.call(job(version, Load::Lazy));
        world.settle();
    }
    assert_eq!(world.commits.last(), Some(&(6, "b".to_owned())), "nothing was rolled back");
    assert!(world.quarantined.is_empty());
}

#[test]
fn failed_rollback_is_retried_after_two_further_failures() {
    let mut world = on_probation();
    world.handle(worker_failed(2));
    world.handle(worker_failed(2));
    world.finish_one(0);
    assert_eq!(world.commits.len(), 2, "nothing could be staged");
    world.handle(worker_failed(2));
    world.handle(worker_failed(2));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "a".to_owned())));
}

#[test]
fn late_failures_and_those_of_other_generations_are_ignored() {
    let mut world = on_probation();
    world.handle(worker_failed(1));
    world.handle(worker_failed(1));
    world.handle(worker_failed(2));
    world.now += TIMES.probation;
    world.handle(worker_failed(2));
    world.handle(worker_failed(2));
    world.settle();
    assert_eq!(world.commits.len(), 2);
}

#[test]
fn newest_call_wins_and_superseded_callers_are_notified() {
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
fn update_storm_is_paced_and_the_newest_wins() {
    let mut world = World::new(7);
    let start = world.now;
    for number in 0..1000 {
        world.now = start + Duration::from_millis(number);
        world.handle(Event::Ticked);
        world.call(job(&format!("v{}", number % 2), Load::Lazy));
        while !world.pending.is_empty() {
            world.finish_one(10);
        }
    }
    let commits = world.commits.len();
    assert!((20..=28).contains(&commits), "{commits} in a second, {BURST} of them at once");
    world.settle();
    assert_eq!(world.commits.last().unwrap().1, "v1");
    assert!(world.now - start <= Duration::from_secs(1) + INTERVAL, "soon after the last call");
}

#[test]
fn paused_machine_queues_calls_and_finishes_the_running_update() {
    let mut machine = Machine::new(0, Some((0, "a".into())), TIMES);
    let now = Instant::now();
    assert_eq!((machine.caller(), machine.is_idle()), (None, true));
    let lazy = |version| job(version, Load::Lazy);
    assert_eq!(machine.handle(now, Event::Called(7, lazy("b"))), [Action::Stage(lazy("b"))]);
    assert_eq!((machine.caller(), machine.is_idle()), (Some(7), false));
    let indexing = machine.handle(now, Event::Staged(Ok(candidate("b"))));
    assert_eq!(indexing, [index("b", Load::Lazy)]);
    assert_eq!(machine.handle(now, Event::Indexed(Ok(()))), [propose("b", 0)]);
    assert!(machine.handle(now, Event::Paused).is_empty());
    assert!(machine.handle(now, Event::Called(8, lazy("c"))).is_empty());
    let recorded = machine.handle(now, Event::Decided(Ok(1)));
    assert_eq!(recorded, [Action::Record(1, "b".into(), "b".into())]);
    machine.handle(now, Event::Recorded(Ok("b".into())));
    assert_eq!((machine.caller(), machine.is_idle()), (None, true));
    assert!(machine.handle(now, Event::Paused).is_empty());
    assert!(machine.handle(now, Event::Resumed).is_empty(), "another pause remains");
    assert_eq!(machine.handle(now, Event::Resumed), [Action::Stage(lazy("c"))]);
    assert_eq!(machine.caller(), Some(8));
}

#[test]
fn stopped_machine_does_not_roll_back() {
    let mut world = on_probation();
    world.handle(Event::Stopped(Stop::Stopping));
    world.handle(worker_failed(2));
    world.handle(worker_failed(2));
    assert!(world.pending.is_empty(), "{:?}", world.pending);
}

#[test]
fn callers_beyond_the_limit_of_one_update_are_refused() {
    let mut machine = Machine::new(0, Some((0, "a".into())), TIMES);
    let now = Instant::now();
    machine.handle(now, Event::Called(0, job("b", Load::Ahead)));
    for caller in 1..=CALLERS_MAX as u64 {
        assert!(machine.handle(now, Event::Called(caller, job("c", Load::Ahead))).is_empty());
    }
    let refused = machine.handle(now, Event::Called(u64::MAX, job("d", Load::Ahead)));
    let [Action::Answer(u64::MAX, Err(refusal))] = &refused[..] else { panic!("{refused:?}") };
    assert_eq!(refusal.kind, RefusalKind::Busy);
}

fn loaded(worker: usize, version: &str) -> Event<Text> {
    Event::Worker(WorkerEvent::Loaded(worker, version.to_owned(), Ok(())))
}

#[test]
fn workers_load_one_at_a_time_and_slow_or_dead_ones_are_skipped() {
    let mut machine = Machine::new(0, Some((0, "a".into())), TIMES);
    let now = Instant::now();
    machine.handle(now, Event::Called(0, job("b", Load::Ahead)));
    let actions = machine.handle(now, Event::Staged(Ok(candidate("b"))));
    assert_eq!(actions, [Action::ListWorkers]);
    let first = machine.handle(now, Event::Workers(vec![0, 1, 2]));
    assert_eq!(first, [Action::LoadAhead(0, "b".into())]);
    for (worker, version) in [(1, "b"), (0, "c")] {
        let stray = machine.handle(now, loaded(worker, version));
        assert!(stray.is_empty(), "worker {worker} was not asked for {version}: {stray:?}");
    }
    let second = machine.handle(now, loaded(0, "b"));
    let progress = Action::Loaded { caller: 0, worker: 0, done: 1, of: 3 };
    assert_eq!(second, [progress, Action::LoadAhead(1, "b".into())]);
    let third = machine.handle(now, Event::Worker(WorkerEvent::Exited(1, Cause::Fault)));
    assert_eq!(third, [Action::LoadAhead(2, "b".into())]);
    assert!(machine.handle(now, Event::Ticked).is_empty());
    let late = machine.deadline().unwrap();
    assert_eq!(machine.handle(late, Event::Ticked), [index("b", Load::Ahead)]);
    assert!(machine.handle(late, loaded(2, "b")).is_empty());
}

#[test]
fn version_that_crashes_every_loading_worker_is_not_committed() {
    let outcome_of = |first: WorkerEvent, second: WorkerEvent| {
        let mut machine = Machine::new(1, Some((1, "a".into())), TIMES);
        let now = Instant::now();
        machine.handle(now, Event::Called(0, job("b", Load::Ahead)));
        machine.handle(now, Event::Staged(Ok(candidate("b"))));
        machine.handle(now, Event::Workers(vec![0, 1]));
        machine.handle(now, Event::Worker(first));
        let mut actions = machine.handle(now, Event::Worker(second));
        actions.retain(|action| !matches!(action, Action::Loaded { .. }));
        actions
    };
    let ended = |worker| WorkerEvent::Exited(worker, Cause::Fault);
    let killed = |worker| WorkerEvent::Exited(worker, Cause::Killed);
    let absent = WorkerEvent::Absent;
    for (first, second, count) in [
        (ended(0), ended(1), 2),
        (killed(0), killed(1), 2),
        (killed(0), ended(1), 2),
        (ended(0), absent(1), 1),
    ] {
        let refused = outcome_of(first, second);
        let [Action::Answer(0, Err(refusal)), Action::DropLoadedAhead, Action::Retire { .. }] =
            &refused[..]
        else {
            panic!("{refused:?}")
        };
        assert_eq!(refusal.kind, RefusalKind::Crash);
        assert!(refusal.message.ends_with(&format!("all {count}")), "{refusal:?}");
    }
    let loads = [index("b", Load::Ahead)];
    let loaded = WorkerEvent::Loaded(1, "b".into(), Ok(()));
    assert_eq!(outcome_of(ended(0), loaded.clone()), loads);
    assert_eq!(outcome_of(killed(0), loaded), loads);
    assert_eq!(outcome_of(absent(0), absent(1)), loads);
    assert_eq!(outcome_of(absent(0), killed(1)), loads, "a single kill does not blame the version");
}

#[test]
fn failed_load_ahead_refuses_the_update_before_the_commit() {
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
fn same_content_gets_a_new_generation_without_loading() {
    let mut world = on_probation();
    world.call(job("b", Load::Ahead));
    world.finish_one(10);
    if let [Action::Check(..)] = world.pending[..] {
        world.finish_one(10);
    }
    assert_eq!(world.pending, [index("b", Load::Ahead)]);
    world.finish_one(10);
    assert_eq!(world.pending, [propose("b", 2)]);
    world.finish_one(10);
    assert_eq!(world.pending, [Action::Record(3, "b".into(), "b".into())]);
}

#[test]
fn poll_that_finds_the_serving_version_commits_nothing() {
    let mut world = on_probation();
    world.call(Job { requester: Requester::Poll, ..job("b", Load::Ahead) });
    world.settle();
    let unchanged = world.answers[&2].as_ref().unwrap();
    assert_eq!((unchanged.generation, unchanged.previous), (2, 2));
    assert_eq!(world.commits.len(), 2);
    // The files look new, but hold what was rolled back.
    world.roll_back();
    world.settle();
    let seen = Some("b".to_owned());
    world.call(Job { requester: Requester::Poll, seen, ..job("b", Load::Ahead) });
    world.settle();
    assert_eq!(world.answers[&4].as_ref().unwrap().version, "b");
    assert_eq!(world.commits.last(), Some(&(3, "a".to_owned())));
}

#[test]
fn stopped_machine_answers_every_caller_and_commits_nothing() {
    let mut world = on_probation();
    world.call(job("c", Load::Ahead));
    world.call(job("d", Load::Ahead));
    world.handle(Event::Stopped(Stop::Stopping));
    world.call(job("e", Load::Ahead));
    world.settle();
    for call in 2..5 {
        assert_eq!(world.answers[&call].as_ref().unwrap_err().kind, RefusalKind::Busy);
    }
    assert_eq!(world.commits.len(), 2);
}
