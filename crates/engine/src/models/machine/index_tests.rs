//! A version is committed only when the indexes are complete for it.

use crate::models::machine::{
    world::{Machine, TIMES, Text, World, candidate, job, on_probation, worker_failed},
    *,
};

/// Runs `world` until the indexes are being completed, which never ends.
fn run_to_index(world: &mut World) {
    while !matches!(world.pending[..], [Action::Index(..)]) {
        world.finish_one(10);
    }
}

/// Returns a world in which call 2 completes the indexes for `c`.
fn indexing(load: Load) -> World {
    let mut world = on_probation();
    world.call(job("c", load));
    run_to_index(&mut world);
    world
}

fn versions(world: &World) -> Vec<&str> {
    world.commits.iter().map(|(_, version)| version.as_str()).collect()
}

fn kind(world: &World, call: CallId) -> RefusalKind {
    world.answers[&call].as_ref().unwrap_err().kind
}

#[test]
fn writes_are_held_back_from_complete_indexes_to_the_commit() {
    let mut world = indexing(Load::Ahead);
    let mut held = Vec::new();
    while !world.machine.is_idle() {
        held.push(world.machine.holds_writes());
        world.finish_one(10);
    }
    assert_eq!(held, [false, true, true], "indexing, proposed, recording");
    assert!(!world.machine.holds_writes());
    assert_eq!(versions(&world), ["a", "b", "c"]);
}

#[test]
fn incomplete_indexes_refuse_the_update_and_keep_what_was_embedded() {
    for (load, ahead) in [(Load::Ahead, true), (Load::Lazy, false)] {
        let mut world = indexing(load);
        let refusal = RefusalKind::Internal.because("the index process ended");
        let actions = world.machine.handle(world.now, Event::Indexed(Err(refusal)));
        let dropped = actions.contains(&Action::DropLoadedAhead);
        assert_eq!(dropped, ahead, "{actions:?}");
        assert_eq!(actions.last(), Some(&Action::Retire { with_indexes: false }));
        assert!(world.machine.is_idle() && !world.machine.holds_writes());
        assert_eq!(versions(&world), ["a", "b"]);
    }
}

#[test]
fn commit_retires_indexes() {
    let mut world = indexing(Load::Ahead);
    while !matches!(world.pending[..], [Action::Record(..)]) {
        world.finish_one(10);
    }
    let Some(Action::Record(_, version, _)) = world.pending.pop() else { unreachable!() };
    let actions = world.machine.handle(world.now, Event::Recorded(Ok(version)));
    assert_eq!(actions.last(), Some(&Action::Retire { with_indexes: true }));
}

#[test]
fn restored_generation_serves_at_once_and_retires_no_index() {
    let (mut machine, now) = (Machine::new(5, None, TIMES), Instant::now());
    machine.handle(now, Event::LoadRequested(0, Load::Lazy));
    let content = Content::Durable(3, "v0".to_owned());
    let restored = Candidate { content, ..candidate("v0") };
    let actions = machine.handle(now, Event::Staged(Ok(restored)));
    assert!(
        matches!(
            actions[..],
            [
                Action::Commit { generation: 3, .. },
                Action::Answer(0, Ok(_)),
                Action::Retire { with_indexes: false }
            ]
        ),
        "{actions:?}"
    );
}

#[test]
fn rollbacks_go_on_if_the_indexes_cannot_be_completed() {
    fn fail(world: &mut World) {
        (0..2).for_each(|_| world.handle(worker_failed(2)));
    }
    for begin in [fail, World::roll_back] {
        let mut world = on_probation();
        begin(&mut world);
        run_to_index(&mut world);
        world.finish_one(0);
        assert!(matches!(world.pending[..], [Action::Propose(_)]), "{:?}", world.pending);
        world.settle();
        assert_eq!(versions(&world), ["a", "b", "a"]);
    }
}

#[test]
fn model_that_does_not_serve_starts_without_complete_indexes() {
    fn unload(world: &mut World) {
        world.call(Job::unload());
        world.settle();
    }
    fn use_first(world: &mut World) {
        *world = World::new(1);
        world.request_load();
    }
    fn update(world: &mut World) {
        unload(world);
        world.call(job("c", Load::Ahead));
    }
    for (begin, served) in
        [(use_first as fn(&mut World), &["source"][..]), (update, &["a", "b", "c"])]
    {
        let mut world = on_probation();
        begin(&mut world);
        run_to_index(&mut world);
        world.finish_one(0);
        assert!(matches!(world.pending[..], [Action::Propose(_)]), "{:?}", world.pending);
        world.settle();
        assert_eq!(versions(&world), served);
    }
}

#[test]
fn version_that_cannot_embed_the_documents_does_not_start() {
    let mut world = on_probation();
    world.call(Job::unload());
    world.settle();
    world.call(job("c", Load::Ahead));
    run_to_index(&mut world);
    let refusal = RefusalKind::Contract.because("it cannot embed document 1");
    world.handle(Event::Indexed(Err(refusal)));
    world.settle();
    assert_eq!(versions(&world), ["a", "b"]);
}

#[test]
fn cancel_ends_indexing() {
    let mut world = indexing(Load::Ahead);
    assert_eq!(world.cancel(), Ok(1));
    assert_eq!(kind(&world, 2), RefusalKind::Cancelled);
    assert!(world.pending.is_empty() && world.machine.is_idle());
}

#[test]
fn pause_interrupts_indexing_and_the_update_runs_when_it_ends() {
    let mut world = indexing(Load::Ahead);
    world.pause();
    assert!(world.machine.is_idle() && world.pending.is_empty());
    let waiting = &world.machine.waiting;
    let is_kept =
        matches!(waiting, Some(Waiting { _interrupted: Some(version), .. }) if version == "c");
    assert!(is_kept, "{waiting:?}");
    world.resume();
    world.settle();
    assert_eq!(versions(&world), ["a", "b", "c"]);
    assert!(world.answers[&2].is_ok());
}

#[test]
fn interrupted_indexing_is_handed_over_and_removes_nothing() {
    let mut world = indexing(Load::Ahead);
    world.pause();
    let stopped = Event::Stopped(Stop::HandingOver);
    let actions = world.machine.handle(world.now, stopped);
    assert!(
        matches!(&actions[..], [Action::Answer(2, Err(refusal))] if refusal.kind == RefusalKind::HandingOver),
        "{actions:?}"
    );
}

#[test]
fn rollbacks_and_unloads_do_not_wait_for_indexing() {
    let mut world = indexing(Load::Ahead);
    (0..2).for_each(|_| world.handle(worker_failed(2)));
    world.settle();
    assert_eq!(versions(&world), ["a", "b", "a", "c"], "the update follows the automatic rollback");
    let mut world = indexing(Load::Lazy);
    world.roll_back();
    world.settle();
    assert_eq!(versions(&world), ["a", "b", "a"]);
    assert_eq!(kind(&world, 2), RefusalKind::Superseded);
    let mut world = indexing(Load::Lazy);
    world.call(Job::unload());
    world.settle();
    assert_eq!((world.page, kind(&world, 2)), (0, RefusalKind::Superseded));
}

#[test]
fn automatic_rollback_completes_the_indexes_and_is_not_interrupted() {
    let mut world = on_probation();
    (0..2).for_each(|_| world.handle(worker_failed(2)));
    run_to_index(&mut world);
    world.pause();
    assert!(matches!(world.pending[..], [Action::Index(..)]));
    world.resume();
    world.settle();
    assert_eq!(versions(&world), ["a", "b", "a"]);
}

#[test]
fn stop_ends_indexing() {
    let mut world = indexing(Load::Lazy);
    world.handle(Event::Stopped(Stop::Stopping));
    assert_eq!(kind(&world, 2), RefusalKind::Busy);
    let late: Vec<Action<Text>> = world.machine.handle(world.now, Event::Indexed(Ok(())));
    assert!(late.is_empty() && !world.machine.holds_writes(), "{late:?}");
}
