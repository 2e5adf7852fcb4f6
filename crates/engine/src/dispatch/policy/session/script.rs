//! Helpers for session tests: whole steps of a worker's life.

use std::time::Instant;

use onnxd_proto::exit::ExitStatus;

use crate::dispatch::{
    item::Priority,
    policy::{
        groups::SentGroup,
        restarts::{CountsAsDeath, End},
        scheduler::Group,
        session::{Progress, Session, SocketAction},
    },
};
use crate::pool::process_exit::ProcessExit;

/// Returns an exit of this kind, as the process monitor reports it.
pub(crate) fn exit(end: End) -> ProcessExit {
    let unknown = || ProcessExit::unknown("test".into());
    match end {
        End::Accident => ProcessExit { signal: Some(11), ..unknown() },
        End::NotStarted => ProcessExit { scarce: true, ..unknown() },
        End::Requested => ProcessExit { code: Some(ExitStatus::Success as i32), ..unknown() },
        End::Permanent => ProcessExit { code: Some(ExitStatus::Configuration as i32), ..unknown() },
    }
}

/// A session with one model.
pub(crate) fn session(now: Instant, restarts_max: u32) -> Session {
    Session::new(now, 1, restarts_max)
}

/// Starts the process that is due and opens its socket. Returns `false` if none is due.
pub(crate) fn start(session: &mut Session, now: Instant) -> bool {
    let due = session.start_due(now).is_some();
    if due && session.process_started(now) == SocketAction::Connect {
        session.connected();
    }
    due
}

/// Returns a worker that serves.
pub(crate) fn serving(now: Instant, restarts_max: u32) -> Session {
    let mut session = session(now, restarts_max);
    assert!(start(&mut session, now));
    session.ready(now);
    session
}

/// Sends a group of one item if the worker may receive one.
pub(crate) fn send(session: &mut Session, id: u64) {
    if session.is_idle() {
        let sent = SentGroup { id, wide: false, deadline: None, committed: 1 };
        let priority = Priority::Interactive;
        let group = Group { slot: 0, priority, items: vec![id], micros: 5_000 };
        session.group_sent(&group, sent);
    }
}

/// Ends the process and its socket. Returns whether that counts in the budget of all workers.
pub(crate) fn end(session: &mut Session, now: Instant, end: End, jitter: f64) -> bool {
    let process = session.process_ended(exit(end), now);
    let socket = session.socket_ended();
    assert!(!(process == Progress::Done && socket == Progress::Done), "finished twice");
    drop(session.take_unanswered());
    session.finish(now, jitter).is_some_and(|finished| finished.counts == CountsAsDeath::Yes)
}
