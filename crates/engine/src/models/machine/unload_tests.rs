//! What a machine promises of models that are unloaded, and of those that nobody has used yet.

use crate::models::machine::{
    events::Stop,
    world::{Machine, TIMES, World, candidate, job, on_probation, worker_failed},
    *,
};

fn kind(world: &World, call: CallId) -> Option<RefusalKind> {
    world.answers[&call].as_ref().err().map(|refusal| refusal.kind)
}

#[test]
fn what_many_want_at_once_is_loaded_once_under_its_last_number() {
    let mut world = World::restarted(7);
    assert_eq!(world.machine.presence(), Presence::NotLoaded);
    (0..20).for_each(|_| world.want());
    assert_eq!(world.machine.presence(), Presence::Loading);
    world.settle();
    assert_eq!((world.loads, &world.commits[..]), (1, &[(3, "v0".to_owned())][..]));
    assert!((0..20).all(|call| world.answers[&call].is_ok()));
    world.want();
    assert!(world.answers[&20].is_ok(), "at once");
    world.call(job("v1", Load::Ahead));
    world.settle();
    assert_eq!(world.commits.last(), Some(&(6, "v1".to_owned())), "above all that was given out");
}

#[test]
fn whoever_wants_a_model_says_when_workers_load_it() {
    let propose = Action::Propose(Proposal { version: "a".into(), after: 0 });
    for (load, next) in [(Load::Ahead, Action::AskWorkers), (Load::Lazy, propose)] {
        let mut machine = Machine::new(0, None, TIMES);
        let now = Instant::now();
        let staged = machine.handle(now, Event::Wanted(0, load));
        assert!(matches!(&staged[..], [Action::Stage(job)] if job.load == load), "{staged:?}");
        assert_eq!(machine.handle(now, Event::Staged(Ok(candidate("a")))), [next]);
    }
}

#[test]
fn so_many_requests_wait_for_a_first_use_and_the_next_is_refused() {
    let mut world = World::new(7);
    let many = CALLERS_MAX as u64;
    (0..many).for_each(|_| world.want());
    assert!(world.answers.is_empty());
    world.want();
    assert_eq!(kind(&world, many), Some(RefusalKind::Busy));
    world.settle();
    assert_eq!(world.loads, 1);
    assert!((0..many).all(|call| world.answers[&call].is_ok()), "the others wait on");
}

#[test]
fn the_pause_after_failed_first_uses_doubles_to_thirty_seconds() {
    let mut world = World::new(7);
    let mut pauses = Vec::new();
    let mut last = world.now;
    while pauses.len() < 8 {
        world.want();
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
fn a_failed_load_is_told_to_all_who_wait_and_tried_again_after_a_pause() {
    let mut world = World::new(7);
    (0..5).for_each(|_| world.want());
    world.finish_one(0);
    assert!((0..5).all(|call| kind(&world, call) == Some(RefusalKind::Internal)));
    world.want();
    assert_eq!(kind(&world, 5), Some(RefusalKind::Internal), "the reason is given again");
    assert!(world.pending.is_empty(), "and nothing staged");
    // Every failure in a row doubles the pause.
    world.now += Duration::from_secs(1);
    world.want();
    world.finish_one(0);
    assert_eq!(kind(&world, 6), Some(RefusalKind::Internal));
    world.now += Duration::from_secs(1);
    world.want();
    assert!(world.pending.is_empty(), "nothing is staged after one second");
    world.now += Duration::from_secs(1);
    world.want();
    world.settle();
    assert_eq!(world.commits, [(1, "source".to_owned())]);
    assert!(world.answers[&8].is_ok());
}

#[test]
fn who_wants_a_model_takes_no_updates_place_and_gets_what_it_commits() {
    let mut world = World::new(7);
    world.call(job("a", Load::Lazy));
    world.want();
    world.settle();
    assert_eq!((world.loads, &world.commits[..]), (1, &[(1, "a".to_owned())][..]));
    assert!(world.answers[&0].is_ok() && world.answers[&1].is_ok());
    // An update that is refused leaves the model to its own source.
    let mut world = World::new(7);
    world.call(job("a", Load::Lazy));
    world.want();
    world.finish_one(0);
    world.settle();
    assert_eq!(world.commits, [(1, "source".to_owned())]);
    assert!(world.answers[&0].is_err() && world.answers[&1].is_ok());
}

#[test]
fn an_unloaded_model_is_loaded_by_an_update_alone_and_its_numbers_go_on() {
    let mut world = on_probation();
    world.call(Job::unload());
    assert_eq!(world.machine.presence(), Presence::Unloading);
    assert_eq!(world.page, 2, "until all is answered it serves");
    world.want();
    assert_eq!(kind(&world, 3), Some(RefusalKind::NotFound));
    world.settle();
    assert_eq!((world.page, world.machine.presence()), (0, Presence::Unloaded));
    let unloaded = world.answers[&2].clone().unwrap();
    assert_eq!((unloaded.generation, unloaded.previous), (0, 2));
    world.want();
    world.settle();
    assert_eq!((kind(&world, 4), world.page), (Some(RefusalKind::NotFound), 0));
    world.call(job("b", Load::Ahead));
    assert_eq!(world.machine.presence(), Presence::Loading);
    world.settle();
    assert_eq!(world.commits.last(), Some(&(3, "b".to_owned())));
    assert_eq!(world.answers[&5].as_ref().unwrap().previous, 0);
}

#[test]
fn an_unload_ends_the_probation_and_what_had_failed_by_then_is_quarantined() {
    let mut world = on_probation();
    world.call(Job::unload());
    world.settle();
    world.tell(worker_failed(2));
    world.tell(worker_failed(2));
    world.settle();
    assert_eq!((world.commits.len(), world.page), (2, 0), "nothing comes back by itself");
    assert!(world.quarantined.is_empty());
    let mut world = on_probation();
    world.call(Job::unload());
    world.tell(worker_failed(2));
    world.tell(worker_failed(2));
    world.settle();
    assert_eq!((world.commits.len(), world.page), (2, 0));
    assert_eq!(world.quarantined, ["b"]);
}

#[test]
fn of_an_update_and_an_unload_that_wait_the_newer_wins() {
    let mut world = on_probation();
    world.call(job("c", Load::Lazy));
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
    assert!(world.answers[&5].is_ok(), "what ran was not given up");
    assert_eq!(kind(&world, 6), Some(RefusalKind::Superseded));
}

#[test]
fn an_unload_of_what_is_not_loaded_succeeds_and_keeps_it_from_being_loaded_on_use() {
    let mut world = World::restarted(7);
    world.call(Job::unload());
    world.settle();
    world.want();
    world.settle();
    assert_eq!((kind(&world, 1), world.commits.len()), (Some(RefusalKind::NotFound), 0));
    assert!(world.answers[&0].is_ok());
}

#[test]
fn an_unload_that_drains_when_the_server_stops_is_given_up() {
    let mut world = on_probation();
    world.call(Job::unload());
    world.tell(Event::Stopped(Stop::Stopping));
    world.settle();
    assert_eq!((kind(&world, 2), world.page), (Some(RefusalKind::Busy), 2));
    assert_eq!(world.machine.presence(), Presence::Loaded);
}
