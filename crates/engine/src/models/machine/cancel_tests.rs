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

#[test]
fn cancel_is_too_late_once_the_commit_is_proposed() {
    let mut world = on_probation();
    world.call(job("c", Load::Lazy));
    while !matches!(world.pending[..], [Action::Propose(_)]) {
        world.finish_one(10);
    }
    let refusal = world.cancel().unwrap_err();
    assert!(refusal.message.starts_with("too late"), "{refusal}");
    world.settle();
    assert_eq!(world.commits.len(), 3);
}

#[test]
fn cancel_without_an_update_is_refused() {
    let mut world = on_probation();
    assert_eq!(world.cancel().unwrap_err().kind, RefusalKind::NotFound);
    world.call(Job::unload());
    assert!(world.cancel().is_err());
    world.settle();
    assert_eq!(world.page, 0, "an unload is not an update");
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
