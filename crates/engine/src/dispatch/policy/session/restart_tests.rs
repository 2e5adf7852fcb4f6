//! When one worker is restarted. `restart_simulation_tests.rs` covers several workers together.

use proptest::prelude::*;

use std::time::{Duration, Instant};

use crate::dispatch::{
    policy::{
        restarts::{BACKOFF_MIN, End, FAILED_STARTS_MAX, RECOVERED_AFTER},
        session::{
            Session,
            script::{end, send, session, start},
        },
    },
    worker::State,
};

fn started(now: Instant) -> Session {
    let mut worker = session(now, 100);
    assert!(start(&mut worker, now));
    worker
}

/// Answers the only group.
fn answer(worker: &mut Session) {
    drop(worker.answered(1, [0].into_iter()));
}

#[test]
fn restart_delays_grow_until_the_worker_recovers() {
    let mut now = Instant::now();
    let mut worker = started(now);
    for expected_ms in [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000] {
        worker.ready(now);
        end(&mut worker, now, End::Accident, 0.0);
        assert_eq!(worker.start_at(), Some(now + Duration::from_millis(expected_ms)));
        assert!(!start(&mut worker, now));
        now = worker.start_at().unwrap();
        assert!(start(&mut worker, now));
    }
    worker.ready(now);
    end(&mut worker, now + RECOVERED_AFTER, End::Accident, 0.0);
    assert_eq!(worker.start_at(), Some(now + RECOVERED_AFTER + BACKOFF_MIN));
    assert_eq!(worker.restarts(), 12);
}

#[test]
fn a_worker_is_idle_unless_it_has_a_group() {
    let now = Instant::now();
    let mut worker = started(now);
    assert!(!worker.is_idle() && !worker.serves());
    send(&mut worker, 1);
    assert_eq!(worker.state(), State::Starting, "a starting worker receives no group");
    worker.ready(now);
    assert!(worker.is_idle() && worker.serves());
    send(&mut worker, 1);
    assert_eq!(worker.state(), State::Busy);
    assert!(!worker.is_idle() && worker.serves());
    answer(&mut worker);
    assert_eq!(worker.state(), State::Ready);
}

#[test]
fn only_a_waiting_worker_can_be_given_up() {
    let now = Instant::now();
    let mut worker = started(now);
    worker.give_up();
    assert_eq!(worker.state(), State::Starting);
    end(&mut worker, now, End::Accident, 0.0);
    worker.give_up();
    assert_eq!((worker.state(), worker.start_at()), (State::Failed, None));
}

#[test]
fn failed_starts_and_bad_configuration_give_up() {
    let mut now = Instant::now();
    let mut worker = started(now);
    for _ in 1..FAILED_STARTS_MAX {
        end(&mut worker, now, End::Accident, 1.0);
        assert_eq!(worker.state(), State::Backoff);
        now = worker.start_at().unwrap();
        assert!(start(&mut worker, now));
    }
    end(&mut worker, now, End::Accident, 1.0);
    assert_eq!((worker.state(), worker.start_at()), (State::Failed, None));
    let mut worker = started(now);
    end(&mut worker, now, End::Permanent, 0.0);
    assert_eq!(worker.state(), State::Failed);
}

#[test]
fn recycling_restarts_at_once_and_is_not_a_failure() {
    let now = Instant::now();
    let mut worker = started(now);
    assert!(!worker.recycle(), "not serving yet");
    worker.ready(now);
    send(&mut worker, 1);
    assert!(worker.recycle() && worker.is_recycled());
    answer(&mut worker);
    assert_eq!((worker.state(), worker.is_idle()), (State::Draining, false));
    end(&mut worker, now, End::Requested, 1.0);
    assert!(start(&mut worker, now) && !worker.is_recycled());
    assert_eq!((worker.restarts(), worker.history.deaths_in_row()), (0, 0));
}

#[test]
fn a_crash_during_recycling_is_a_failure() {
    let now = Instant::now();
    let mut worker = started(now);
    worker.ready(now);
    assert!(worker.recycle());
    end(&mut worker, now, End::Accident, 0.0);
    assert_eq!(worker.state(), State::Backoff);
    assert_eq!((worker.start_at(), worker.restarts()), (Some(now + BACKOFF_MIN), 1));
}

#[test]
fn a_worker_drained_during_recycling_stays_stopped() {
    let now = Instant::now();
    let mut worker = started(now);
    worker.ready(now);
    assert!(worker.recycle());
    worker.drain();
    end(&mut worker, now, End::Requested, 0.0);
    assert_eq!((worker.state(), worker.start_at()), (State::Stopped, None));
}

proptest! {
    #[test]
    fn a_drained_worker_is_never_restarted(
        before in prop::collection::vec(0..7, 0..20),
        after in prop::collection::vec(0..7, 0..20),
    ) {
        let mut now = Instant::now();
        let mut worker = session(now, 100);
        let step = |worker: &mut Session, what, now| match what {
            0 => { start(worker, now); }
            1 => worker.ready(now),
            2 => send(worker, 1),
            3 => answer(worker),
            4 => { end(worker, now, End::Requested, 0.5); }
            5 => { worker.recycle(); }
            _ => { end(worker, now, End::Accident, 0.5); }
        };
        for what in before {
            now += Duration::from_secs(1);
            step(&mut worker, what, now);
        }
        worker.drain();
        for what in after {
            now += Duration::from_secs(60);
            prop_assert!(!start(&mut worker, now));
            prop_assert!(!worker.is_idle());
            step(&mut worker, what, now);
        }
    }
}
