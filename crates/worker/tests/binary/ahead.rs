//! Loading ahead of the commit, while the worker serves.

use std::{thread, time::Duration};

use onnxd_proto::wire::message::{FromWorker, ToWorker};

use crate::supervisor::Supervisor;

#[test]
fn a_version_loads_beside_what_is_served_and_its_commit_is_a_swap() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let before = supervisor.embed(&["a"]);
    supervisor.load_ahead("minilm-variant");
    // Serves on while loading; the answer comes between those to groups.
    let mut groups = 0;
    let ahead = loop {
        // What loads yields; a worker that never idled would need ten times as long.
        thread::sleep(Duration::from_millis(1));
        supervisor.ask(&["a"]);
        match supervisor.receive() {
            (0, message) => {
                assert_eq!(supervisor.answers(1), [Ok(before[0].clone())]);
                break message;
            }
            (_, FromWorker::Answered(batch)) => assert_eq!(batch.generation, 1),
            other => panic!("{other:?}"),
        }
        groups += 1;
    };
    assert!(groups > 1, "the version loaded before one group was answered");
    let FromWorker::LoadedAhead { slot: 5, version, load_micros } = ahead else {
        panic!("{ahead:?}");
    };
    assert_eq!(version, "minilm-variant");
    assert!(load_micros > 1000);
    supervisor.commit(2, "minilm-variant");
    supervisor.ask(&["a"]);
    assert!(supervisor.expect_loaded(2).1.is_zero());
    let answer = supervisor.answers(1).remove(0).unwrap();
    assert_eq!((answer.generation, answer.embedding.len()), (2, 384));
}

#[test]
fn a_version_that_cannot_be_loaded_ahead_is_told_and_the_worker_serves_on() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let before = supervisor.embed(&["a"]);
    supervisor.send(&ToWorker::Load { slot: 5, version: "nowhere".into() }, &[]);
    let (_, told) = supervisor.receive();
    let FromWorker::LoadAheadFailed { slot: 5, version, reason } = told else { panic!("{told:?}") };
    assert_eq!(version, "nowhere");
    assert!(reason.contains("No such file"), "{reason}");
    assert_eq!(supervisor.embed(&["a"]), before);
}

#[test]
fn what_is_served_or_stands_ready_is_answered_at_once() {
    let mut supervisor = Supervisor::serving("tiny/a");
    for (name, first) in [("tiny/a", false), ("tiny/b", true), ("tiny/b", false)] {
        supervisor.load_ahead(name);
        let (_, told) = supervisor.receive();
        let FromWorker::LoadedAhead { load_micros, .. } = told else { panic!("{told:?}") };
        assert_eq!(load_micros > 0, first, "{name}");
    }
}
