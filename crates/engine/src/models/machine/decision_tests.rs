//! Decisions may arrive late, be refused, or arrive after the update was aborted.

use crate::models::machine::{
    world::{Text, World, job, on_probation},
    *,
};

/// Returns a world in which call 2 proposes version `c` as the generation after 2.
fn proposed() -> World {
    let mut world = on_probation();
    world.call(job("c", Load::Lazy));
    world.run_to_proposal();
    world.pending.clear();
    world
}

fn decide(world: &mut World, decision: Decision) {
    world.handle(Event::Decided(decision));
}

#[test]
fn late_decision_commits_under_its_number() {
    let mut world = proposed();
    world.now += Duration::from_secs(3600);
    world.handle(Event::Ticked);
    assert!(world.pending.is_empty() && !world.answers.contains_key(&2), "the update waits");
    assert_eq!(world.machine.presence(), Presence::Loaded, "the old generation serves");
    decide(&mut world, Ok(7));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(7, "c".to_owned())));
    world.call(job("a", Load::Lazy));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(8, "a".to_owned())), "numbers continue from there");
}

#[test]
fn newest_call_runs_after_a_pending_decision() {
    let mut world = proposed();
    world.call(job("d", Load::Lazy));
    world.call(job("e", Load::Lazy));
    assert!(world.pending.is_empty());
    decide(&mut world, Ok(3));
    world.settle();
    let versions: Vec<&str> = world.commits.iter().map(|(_, version)| version.as_str()).collect();
    assert_eq!(versions, ["a", "b", "c", "e"]);
}

#[test]
fn refused_decision_ends_the_update_without_using_a_number() {
    let mut world = proposed();
    decide(&mut world, Err(RefusalKind::Busy.because("another node is ahead")));
    let refusal = world.answers[&2].as_ref().unwrap_err();
    assert_eq!((refusal.kind, world.page), (RefusalKind::Busy, 2));
    world.call(job("d", Load::Lazy));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "d".to_owned())));
}

#[test]
fn refused_decision_makes_workers_drop_the_loaded_version() {
    let mut machine = UpdateMachine::<Text>::new(1, Some((1, "a".into())), world::TIMES);
    let now = Instant::now();
    machine.handle(now, Event::Called(0, job("b", Load::Ahead)));
    machine.handle(now, Event::Staged(Ok(world::candidate("b"))));
    machine.handle(now, Event::Workers(vec![0]));
    machine.handle(now, Event::Worker(WorkerEvent::Loaded(0, "b".into(), Ok(()))));
    machine.handle(now, Event::Indexed(Ok(())));
    let refused = machine.handle(now, Event::Decided(Err(RefusalKind::Busy.because("no"))));
    assert!(matches!(
        refused[..],
        [Action::Answer(0, Err(_)), Action::DropLoadedAhead, Action::Retire { .. }]
    ));
}

#[test]
fn stop_between_proposal_and_decision_aborts_the_update() {
    let mut world = proposed();
    world.handle(Event::Stopped(Stop::Stopping));
    assert_eq!(world.answers[&2].as_ref().unwrap_err().kind, RefusalKind::Busy);
    decide(&mut world, Ok(3));
    assert!(world.pending.is_empty(), "no record is written: {:?}", world.pending);
    assert_eq!((world.page, world.commits.len()), (2, 2));
}

#[test]
fn stop_after_the_decision_lets_the_record_finish() {
    let mut world = proposed();
    decide(&mut world, Ok(3));
    world.handle(Event::Stopped(Stop::Stopping));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "c".to_owned())));
    assert!(world.answers[&2].is_ok());
}

#[test]
fn decision_on_an_issued_number_is_refused() {
    for number in [1, 2] {
        let mut world = proposed();
        decide(&mut world, Ok(number));
        assert_eq!(world.answers[&2].as_ref().unwrap_err().kind, RefusalKind::Internal);
        assert!(world.pending.is_empty() && world.page == 2);
    }
}

#[test]
fn events_of_another_phase_are_ignored() {
    let mut world = proposed();
    world.handle(Event::Staged(Ok(world::candidate("x"))));
    world.handle(Event::Checked(Ok("x".into())));
    world.handle(Event::Workers(vec![0]));
    world.handle(Event::Indexed(Err(RefusalKind::Internal.because("late"))));
    world.handle(Event::Recorded(Ok("x".into())));
    world.handle(Event::Drained);
    world.handle(Event::Unloaded);
    assert!(world.pending.is_empty(), "{:?}", world.pending);
    decide(&mut world, Ok(3));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "c".to_owned())));
}
