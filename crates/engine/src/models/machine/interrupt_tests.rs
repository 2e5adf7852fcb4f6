//! Staging is interrupted by what must not wait for a download.

use crate::models::{
    machine::{
        world::{Text, World, job, on_probation, worker_failed},
        *,
    },
    requester::Requester,
};

/// Returns a world in which call 2 stages `c`, which never ends.
fn downloading() -> World {
    let mut world = on_probation();
    world.call(job("c", Load::Lazy));
    assert!(matches!(world.pending[..], [Action::Stage(_)]));
    world
}

fn versions(world: &World) -> Vec<&str> {
    world.commits.iter().map(|(_, version)| version.as_str()).collect()
}

fn superseded(world: &World, call: CallId) -> bool {
    let answer = world.answers.get(&call).and_then(|answer| answer.as_ref().err());
    answer.is_some_and(|refusal| refusal.kind == RefusalKind::Superseded)
}

#[test]
fn automatic_rollback_does_not_wait_and_the_update_follows_it() {
    let mut world = downloading();
    world.handle(worker_failed(2));
    world.handle(worker_failed(2));
    assert!(!world.answers.contains_key(&2));
    world.settle();
    assert_eq!(versions(&world), ["a", "b", "a", "c"]);
    assert_eq!(world.quarantined, ["b"]);
    assert_eq!(world.answers[&2].as_ref().unwrap().generation, 4);
}

#[test]
fn requested_rollback_does_not_wait_and_supersedes_the_update() {
    let mut world = downloading();
    world.roll_back();
    assert!(superseded(&world, 2), "{:?}", world.answers);
    world.settle();
    assert_eq!(versions(&world), ["a", "b", "a"]);
}

#[test]
fn unload_does_not_wait_for_an_update_or_a_first_use() {
    let mut world = downloading();
    world.call(Job::unload());
    assert!(superseded(&world, 2), "{:?}", world.answers);
    world.settle();
    assert_eq!((world.commits.len(), world.page), (2, 0));
    let mut world = World::new(7);
    world.request_load();
    world.call(Job::unload());
    world.settle();
    assert!(world.commits.is_empty() && world.answers[&1].is_ok());
    assert_eq!(world.answers[&0].as_ref().unwrap_err().kind, RefusalKind::NotFound);
}

#[test]
fn pause_does_not_wait_and_the_update_runs_when_it_ends() {
    let mut world = downloading();
    world.pause();
    assert!(world.machine.is_idle() && world.pending.is_empty());
    assert!(!world.answers.contains_key(&2));
    world.resume();
    world.settle();
    assert_eq!(versions(&world), ["a", "b", "c"]);
    assert!(world.answers[&2].is_ok());
}

#[test]
fn interrupted_update_is_handed_over_like_a_waiting_one() {
    let mut world = downloading();
    world.pause();
    world.handle(Event::Stopped(Stop::HandingOver));
    assert_eq!(world.answers[&2].as_ref().unwrap_err().kind, RefusalKind::HandingOver);
}

#[test]
fn load_for_requests_is_interrupted_by_a_pause_and_starts_again() {
    let mut world = World::new(7);
    world.request_load();
    world.pause();
    assert!(world.machine.is_idle() && world.answers.is_empty());
    world.resume();
    world.settle();
    assert_eq!((world.loads, world.answers[&0].is_ok()), (1, true));
}

#[test]
fn rollbacks_and_later_steps_are_not_interrupted() {
    let mut world = on_probation();
    world.roll_back();
    world.pause();
    assert!(matches!(world.pending[..], [Action::Stage(_)]), "a kept version is staged at once");
    let mut machine = UpdateMachine::<Text>::new(1, Some((1, "a".into())), world::TIMES);
    let now = Instant::now();
    machine.handle(now, Event::Called(0, job("b", Load::Lazy)));
    machine.handle(now, Event::Staged(Ok(world::candidate("b"))));
    machine.handle(now, Event::Indexed(Ok(())));
    assert!(machine.handle(now, Event::Called(1, Job::unload())).is_empty());
}

#[test]
fn calls_do_not_wait_for_polls() {
    let from = |requester| Job { requester, ..job("c", Load::Lazy) };
    let (poll, operator) = (from(Requester::Poll), from(Requester::Operator));
    for (running, called, interrupts) in [
        (&poll, &operator, true),
        (&operator, &operator, false),
        (&operator, &poll, false),
        (&poll, &poll, false),
    ] {
        let mut world = on_probation();
        world.call(running.clone());
        world.call(called.clone());
        assert_eq!(superseded(&world, 2), interrupts, "{called:?} while {running:?}");
        world.settle();
        assert!(world.answers[&3].is_ok(), "{:?}", world.answers);
    }
}
