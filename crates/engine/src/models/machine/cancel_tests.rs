//! Updates end on request, unless their commit is decided.

use crate::models::machine::{
    world::{World, job, on_probation},
    *,
};

fn kind(world: &World, call: CallId) -> Option<RefusalKind> {
    world.answers.get(&call)?.as_ref().err().map(|refusal| refusal.kind)
}

#[test]
fn cancel_ends_the_running_and_the_waiting_update() {
    let mut world = on_probation();
    world.call(job("c", Load::Lazy));
    world.call(job("d", Load::Lazy));
    world.call(job("e", Load::Lazy));
    assert_eq!(world.cancel(), Ok(3));
    assert!((2..5).all(|call| kind(&world, call) == Some(RefusalKind::Cancelled)));
    assert!(world.pending.is_empty(), "{:?}", world.pending);
    world.call(job("f", Load::Lazy));
    world.settle();
    let versions: Vec<_> = world.commits.iter().map(|(_, version)| version.as_str()).collect();
    assert_eq!(versions, ["a", "b", "f"]);
}

/// Runs an update until `is_reached`, and returns why a cancel is refused then.
fn refused_at(world: &mut World, is_reached: impl Fn(&Action<world::Text>) -> bool) -> Refusal {
    world.call(job("c", Load::Lazy));
    while !world.pending.first().is_some_and(&is_reached) {
        world.finish_one(10);
    }
    let refusal = world.cancel().unwrap_err();
    world.settle();
    refusal
}

#[test]
fn cancel_is_too_late_once_the_commit_is_proposed() {
    let mut world = on_probation();
    let refusal = refused_at(&mut world, |action| matches!(action, Action::Propose(_)));
    assert_eq!(refusal.kind, RefusalKind::Busy);
    assert_eq!(refusal.message, "too late to cancel: the new version is being committed");
    assert_eq!(world.commits.len(), 3);

    let mut world = on_probation();
    let refusal = refused_at(&mut world, |action| matches!(action, Action::Record(..)));
    assert_eq!(refusal.kind, RefusalKind::Busy);
    assert_eq!(refusal.message, "too late to cancel: generation 3 is being committed");
    assert_eq!(world.commits.len(), 3);
}

#[test]
fn cancel_during_the_commit_is_too_late() {
    let mut world = on_probation();
    let called = world.now + Duration::from_secs(1);
    // The commit waits for responses before it takes effect.
    world.now = called + Duration::from_secs(1);
    world.machine.published(world.now);
    let refusal = world.cancel_called_at(called).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Busy);
    assert_eq!(refusal.message, "too late to cancel: generation 2 is committed");
    assert_eq!(world.cancel().unwrap_err().kind, RefusalKind::NotFound, "a later call");
}

#[test]
fn cancel_without_an_update_is_refused() {
    let mut world = on_probation();
    let message = "no update is running or waiting";
    let found = |refusal: Refusal| (refusal.kind, refusal.message);
    assert_eq!(found(world.cancel().unwrap_err()), (RefusalKind::NotFound, message.to_owned()));
    world.call(Job::unload());
    let unloading = (RefusalKind::NotFound, format!("{message}; the model is being unloaded"));
    while !world.pending.is_empty() {
        assert_eq!(found(world.cancel().unwrap_err()), unloading, "an unload is not an update");
        world.finish_one(10);
    }
    assert_eq!(world.page, 0);
    assert_eq!(found(world.cancel().unwrap_err()).1, message);
}

#[test]
fn cancel_leaves_automatic_jobs_alone_and_names_them() {
    let mut world = World::new(7);
    world.request_load();
    let refusal = world.cancel().unwrap_err();
    assert_eq!(refusal.message, "no update is running or waiting; the model is being loaded");
    world.settle();
    assert_eq!(world.commits.len(), 1);

    let mut world = on_probation();
    (0..2).for_each(|_| world.handle(world::worker_failed(2)));
    let refusal = world.cancel().unwrap_err();
    let message = "no update is running or waiting; an automatic rollback is running";
    assert_eq!(refusal.message, message);
    world.settle();
    assert_eq!(world.commits.len(), 3);
}

#[test]
fn cancel_after_a_stop_says_why_nothing_runs() {
    let mut world = on_probation();
    world.call(job("c", Load::Lazy));
    world.pending.clear();
    world.handle(Event::Stopped(Stop::HandingOver));
    assert_eq!(world.cancel().unwrap_err().kind, RefusalKind::HandingOver);
}

#[test]
fn cancel_does_not_load_an_unloaded_model() {
    let mut world = on_probation();
    world.call(Job::unload());
    world.settle();
    world.pause();
    world.call(job("c", Load::Lazy));
    world.request_load();
    assert_eq!(world.cancel(), Ok(1));
    assert_eq!(kind(&world, 4), Some(RefusalKind::NotFound));
    world.resume();
    world.settle();
    assert_eq!(world.page, 0);
}
