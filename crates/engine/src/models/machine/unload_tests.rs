//! Unloaded models, and models before their first use.

use crate::models::machine::{
    events::Stop,
    world::{Machine, TIMES, World, candidate, job, on_probation, worker_failed},
    *,
};

fn kind(world: &World, call: CallId) -> Option<RefusalKind> {
    world.answers[&call].as_ref().err().map(|refusal| refusal.kind)
}

#[test]
fn concurrent_first_uses_share_one_load_of_the_last_generation() {
    let mut world = World::restarted(7);
    assert_eq!(world.machine.presence(), Presence::NotLoaded);
    (0..20).for_each(|_| world.request_load());
    assert_eq!(world.machine.presence(), Presence::Loading);
    world.settle();
    assert_eq!((world.loads, &world.commits[..]), (1, &[(3, "v0".to_owned())][..]));
    assert!((0..20).all(|call| world.answers[&call].is_ok()));
    world.request_load();
    assert!(world.answers[&20].is_ok(), "at once");
    world.call(job("v1", Load::Ahead));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(6, "v1".to_owned())), "above every issued number");
}

#[test]
fn load_request_decides_when_workers_load() {
    let lazily = Job::unconditional(Target::Last, Load::Lazy);
    let index = Action::Index(lazily, "a".into());
    for (load, next) in [(Load::Ahead, Action::ListWorkers), (Load::Lazy, index)] {
        let mut machine = Machine::new(0, None, TIMES);
        let now = Instant::now();
        let staged = machine.handle(now, Event::LoadRequested(0, load));
        assert!(matches!(&staged[..], [Action::Stage(job)] if job.load == load), "{staged:?}");
        assert_eq!(machine.handle(now, Event::Staged(Ok(candidate("a")))), [next]);
    }
}

#[test]
fn requests_beyond_the_first_use_limit_are_refused() {
    let mut world = World::new(7);
    let many = CALLERS_MAX as u64;
    (0..many).for_each(|_| world.request_load());
    assert!(world.answers.is_empty());
    world.request_load();
    assert_eq!(kind(&world, many), Some(RefusalKind::Busy));
    world.settle();
    assert_eq!(world.loads, 1);
    assert!((0..many).all(|call| world.answers[&call].is_ok()), "the others keep waiting");
}

#[test]
fn pause_after_failed_first_uses_doubles_to_thirty_seconds() {
    let mut world = World::new(7);
    let mut pauses = Vec::new();
    let mut last = world.now;
    while pauses.len() < 8 {
        world.request_load();
        if world.pending.is_empty() {
            world.now += Duration::from_millis(500);
            continue;
        }
        world.finish_one(0);
        pauses.push((world.now - last).as_secs());
        last = world.now;
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn failed_load_answers_all_waiters_and_retries_after_a_pause() {
    let mut world = World::new(7);
    (0..5).for_each(|_| world.request_load());
    world.finish_one(0);
    assert!((0..5).all(|call| kind(&world, call) == Some(RefusalKind::Internal)));
    world.request_load();
    assert_eq!(kind(&world, 5), Some(RefusalKind::Internal), "the reason is repeated");
    assert!(world.pending.is_empty(), "nothing is staged");
    // Every consecutive failure doubles the pause.
    world.now += Duration::from_secs(1);
    world.request_load();
    world.finish_one(0);
    assert_eq!(kind(&world, 6), Some(RefusalKind::Internal));
    world.now += Duration::from_secs(1);
    world.request_load();
    assert!(world.pending.is_empty(), "nothing is staged after one second");
    world.now += Duration::from_secs(1);
    world.request_load();
    world.settle();
    assert_eq!(world.commits, [(1, "source".to_owned())]);
    assert!(world.answers[&8].is_ok());
}

#[test]
fn load_request_waits_for_the_running_update() {
    let mut world = World::new(7);
    world.call(job("a", Load::Lazy));
    world.request_load();
    world.settle();
    assert_eq!((world.loads, &world.commits[..]), (1, &[(1, "a".to_owned())][..]));
    assert!(world.answers[&0].is_ok() && world.answers[&1].is_ok());
    // After a refused update the model loads from its own source.
    let mut world = World::new(7);
    world.call(job("a", Load::Lazy));
    world.request_load();
    world.finish_one(0);
    world.settle();
    assert_eq!(world.commits, [(1, "source".to_owned())]);
    assert!(world.answers[&0].is_err() && world.answers[&1].is_ok());
}

#[test]
fn only_an_update_loads_an_unloaded_model_and_numbers_continue() {
    let mut world = on_probation();
    world.call(Job::unload());
    assert_eq!(world.machine.presence(), Presence::Unloading);
    assert_eq!(world.page, 2, "it serves until every request is answered");
    world.request_load();
    assert_eq!(kind(&world, 3), Some(RefusalKind::NotFound));
    world.settle();
    assert_eq!((world.page, world.machine.presence()), (0, Presence::Unloaded));
    let unloaded = world.answers[&2].clone().unwrap();
    assert_eq!((unloaded.generation, unloaded.previous), (0, 2));
    world.request_load();
    world.settle();
    assert_eq!((kind(&world, 4), world.page), (Some(RefusalKind::NotFound), 0));
    world.call(job("b", Load::Ahead));
    assert_eq!(world.machine.presence(), Presence::Loading);
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "b".to_owned())));
    assert_eq!(world.answers[&5].as_ref().unwrap().previous, 0);
}

#[test]
fn unload_ends_probation_and_quarantines_a_failed_version() {
    let mut world = on_probation();
    world.call(Job::unload());
    world.settle();
    world.handle(worker_failed(2));
    world.handle(worker_failed(2));
    world.settle();
    assert_eq!((world.commits.len(), world.page), (2, 0), "there is no automatic rollback");
    assert!(world.quarantined.is_empty());
    let mut world = on_probation();
    world.call(Job::unload());
    world.handle(worker_failed(2));
    world.handle(worker_failed(2));
    world.settle();
    assert_eq!((world.commits.len(), world.page), (2, 0));
    assert_eq!(world.quarantined, ["b"]);
}

#[test]
fn newer_of_a_waiting_update_and_unload_wins() {
    let mut world = on_probation();
    world.call(job("c", Load::Lazy));
    world.run_to_proposal();
    world.call(job("d", Load::Lazy));
    world.call(Job::unload());
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "c".to_owned())));
    assert_eq!((kind(&world, 3), world.page), (Some(RefusalKind::Superseded), 0));
    world.call(Job::unload());
    world.call(Job::unload());
    world.call(job("e", Load::Lazy));
    world.settle();
    assert_eq!(world.page, 4);
    assert!(world.answers[&5].is_ok(), "the running job was not aborted");
    assert_eq!(kind(&world, 6), Some(RefusalKind::Superseded));
}

#[test]
fn unload_of_an_unused_model_prevents_loading_on_first_use() {
    let mut world = World::restarted(7);
    world.call(Job::unload());
    world.settle();
    world.request_load();
    world.settle();
    assert_eq!((kind(&world, 1), world.commits.len()), (Some(RefusalKind::NotFound), 0));
    assert!(world.answers[&0].is_ok());
}

#[test]
fn draining_unload_is_aborted_when_the_server_stops() {
    let mut world = on_probation();
    world.call(Job::unload());
    world.handle(Event::Stopped(Stop::Stopping));
    world.settle();
    assert_eq!((kind(&world, 2), world.page), (Some(RefusalKind::Busy), 2));
    assert_eq!(world.machine.presence(), Presence::Loaded);
}
