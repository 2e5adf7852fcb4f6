//! When a process is finished: different threads report the exit of the process and the closing of
//! its socket.

use std::time::{Duration, Instant};

use crate::dispatch::{
    policy::{
        overdue::READ_GRACE,
        restarts::End,
        session::{
            Progress, Session,
            script::{exit, send, serving, session},
        },
    },
    worker::State,
};

fn crash(session: &mut Session, now: Instant) -> Progress {
    session.process_ended(exit(End::Accident), now)
}

#[test]
fn process_and_socket_may_end_in_either_order() {
    let now = Instant::now();
    let mut worker = serving(now, 9);
    assert_eq!(crash(&mut worker, now), Progress::Pending);
    assert!(worker.listens_to(1), "earlier messages still count");
    assert!(worker.finish(now, 0.0).is_none(), "its socket is still open");
    assert_eq!(worker.socket_ended(), Progress::Done);
    assert!(!worker.listens_to(1));
    assert_eq!(worker.finish(now, 0.0).unwrap().exit, exit(End::Accident));

    let mut worker = serving(now, 9);
    assert_eq!(worker.socket_ended(), Progress::Pending);
    assert!(!worker.listens_to(1));
    assert!(worker.read_until().is_none(), "only the exit of the killed process is missing");
    assert_eq!(crash(&mut worker, now), Progress::Done);
    assert_eq!(worker.finish(now, 0.0).unwrap().state, State::Backoff);
}

#[test]
fn a_process_finishes_once() {
    let now = Instant::now();
    let mut worker = serving(now, 9);
    assert_eq!(crash(&mut worker, now), Progress::Pending);
    assert_eq!(worker.give_up_reading(now + READ_GRACE), Progress::Done);
    assert_eq!(worker.socket_ended(), Progress::Pending);
    assert_eq!(worker.give_up_reading(now + READ_GRACE * 2), Progress::Pending);
    assert!(worker.finish(now, 0.0).is_some() && worker.finish(now, 0.0).is_none());
    assert_eq!(crash(&mut worker, now), Progress::Pending, "no process");
}

#[test]
fn a_process_that_did_not_start_has_no_socket_to_await() {
    let now = Instant::now();
    let mut worker = session(now, 9);
    assert_eq!(worker.start_due(now), Some(1));
    assert_eq!(worker.process_ended(exit(End::NotStarted), now), Progress::Done);
}

#[test]
fn an_open_socket_is_awaited_only_for_the_grace_period() {
    let now = Instant::now();
    let mut worker = serving(now, 9);
    assert_eq!(crash(&mut worker, now), Progress::Pending);
    assert_eq!(worker.read_until(), Some(now + READ_GRACE));
    let before = now + READ_GRACE - Duration::from_millis(1);
    assert_eq!(worker.give_up_reading(before), Progress::Pending);
    assert_eq!(worker.give_up_reading(now + READ_GRACE), Progress::Done);
    assert!(!worker.listens_to(1), "later messages are ignored");
}

#[test]
fn a_worker_that_broke_the_protocol_is_ignored() {
    let now = Instant::now();
    let mut worker = serving(now, 9);
    send(&mut worker, 1);
    assert_eq!(worker.take_unanswered().len(), 1);
    assert_eq!(worker.broke_protocol(), Progress::Pending);
    assert!(!worker.listens_to(1) && !worker.is_idle() && !worker.is_nearly_idle());
    assert!(worker.kill(None) && !worker.kill(None), "killed once");
    assert!(worker.take_unanswered().is_empty(), "its items were taken once");
    assert_eq!(crash(&mut worker, now), Progress::Done);
}

#[test]
fn a_worker_drained_before_its_process_runs_is_refused() {
    let now = Instant::now();
    let mut worker = session(now, 9);
    worker.start_due(now).unwrap();
    worker.drain();
    assert_eq!(worker.process_started(now), super::SocketAction::Refuse);
    assert_eq!(crash(&mut worker, now), Progress::Done);
    assert_eq!(worker.finish(now, 0.0).unwrap().state, State::Stopped);
}
