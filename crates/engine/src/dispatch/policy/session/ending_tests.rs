//! When a process is over: its end and that of its socket are told by different threads.

use std::time::{Duration, Instant};

use crate::dispatch::{
    policy::{
        overdue::READ_GRACE,
        restarts::End,
        session::{
            Progress, Session,
            script::{ended, send, serving, session},
        },
    },
    worker::State,
};

fn crash(session: &mut Session, now: Instant) -> Progress {
    session.process_ended(ended(End::Accident), now)
}

#[test]
fn a_worker_is_over_when_its_process_and_its_socket_have_ended_in_whatever_order() {
    let now = Instant::now();
    let mut worker = serving(now, 9);
    assert_eq!(crash(&mut worker, now), Progress::Waits);
    assert!(worker.listens_to(1), "what it wrote before counts");
    assert!(worker.finish(now, 0.0).is_none(), "it is not over");
    assert_eq!(worker.socket_ended(), Progress::Over);
    assert!(!worker.listens_to(1));
    assert_eq!(worker.finish(now, 0.0).unwrap().ended, ended(End::Accident));

    let mut worker = serving(now, 9);
    assert_eq!(worker.socket_ended(), Progress::Waits);
    assert!(!worker.listens_to(1));
    assert!(worker.read_until().is_none(), "its process is killed, and waited for");
    assert_eq!(crash(&mut worker, now), Progress::Over);
    assert_eq!(worker.finish(now, 0.0).unwrap().state, State::Backoff);
}

#[test]
fn a_worker_is_over_once() {
    let now = Instant::now();
    let mut worker = serving(now, 9);
    assert_eq!(crash(&mut worker, now), Progress::Waits);
    assert_eq!(worker.give_up_reading(now + READ_GRACE), Progress::Over);
    assert_eq!(worker.socket_ended(), Progress::Waits);
    assert_eq!(worker.give_up_reading(now + READ_GRACE * 2), Progress::Waits);
    assert!(worker.finish(now, 0.0).is_some() && worker.finish(now, 0.0).is_none());
    assert_eq!(crash(&mut worker, now), Progress::Waits, "there is no process");
}

#[test]
fn a_process_that_was_not_started_has_no_socket_to_wait_for() {
    let now = Instant::now();
    let mut worker = session(now, 9);
    assert_eq!(worker.start_due(now), Some(1));
    assert_eq!(worker.process_ended(ended(End::NotStarted), now), Progress::Over);
}

#[test]
fn a_socket_that_does_not_end_is_waited_for_a_short_while() {
    let now = Instant::now();
    let mut worker = serving(now, 9);
    assert_eq!(crash(&mut worker, now), Progress::Waits);
    assert_eq!(worker.read_until(), Some(now + READ_GRACE));
    let before = now + READ_GRACE - Duration::from_millis(1);
    assert_eq!(worker.give_up_reading(before), Progress::Waits);
    assert_eq!(worker.give_up_reading(now + READ_GRACE), Progress::Over);
    assert!(!worker.listens_to(1), "what comes later was given to another");
}

#[test]
fn what_breaks_the_protocol_is_heard_no_more_and_gets_nothing() {
    let now = Instant::now();
    let mut worker = serving(now, 9);
    send(&mut worker, 1);
    assert_eq!(worker.take_unanswered().len(), 1);
    assert_eq!(worker.broke_protocol(), Progress::Waits);
    assert!(!worker.listens_to(1) && !worker.is_idle() && !worker.is_nearly_idle());
    assert!(worker.kill(None) && !worker.kill(None), "it is killed once");
    assert!(worker.take_unanswered().is_empty(), "what it had was taken once");
    assert_eq!(crash(&mut worker, now), Progress::Over);
}

#[test]
fn what_is_told_to_stop_before_its_process_runs_is_not_connected() {
    let now = Instant::now();
    let mut worker = session(now, 9);
    worker.start_due(now).unwrap();
    worker.drain();
    assert_eq!(worker.process_started(now), super::Welcome::Refuse);
    assert_eq!(crash(&mut worker, now), Progress::Over);
    assert_eq!(worker.finish(now, 0.0).unwrap().state, State::Stopped);
}
