//! Loading ahead of the commit while the worker serves.

use std::{thread, time::Duration};

use onnxd_proto::wire::message::{FromWorker, ToWorker};

use crate::supervisor::Supervisor;

#[test]
fn version_loads_ahead_while_serving_and_commits_instantly() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let before = supervisor.embed(&["a"]);
    supervisor.load_ahead("minilm-variant");
    // The worker keeps serving while it loads. The answer arrives between those to groups.
    let mut groups = 0;
    let ahead = loop {
        // Loading yields to serving: without idle time it would take ten times as long.
        thread::sleep(Duration::from_millis(1));
        supervisor.send_texts(&["a"]);
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
    supervisor.send_texts(&["a"]);
    assert!(supervisor.expect_loaded(2).1.is_zero());
    let answer = supervisor.answers(1).remove(0).unwrap();
    assert_eq!((answer.generation, answer.embedding.len()), (2, 384));
}

#[test]
fn failed_load_ahead_is_reported_and_the_worker_serves() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let before = supervisor.embed(&["a"]);
    supervisor.send(&ToWorker::Load { slot: 5, version: "nowhere".into() }, &[]);
    let (_, message) = supervisor.receive();
    let FromWorker::LoadAheadFailed { slot: 5, version, reason } = message else {
        panic!("{message:?}")
    };
    assert_eq!(version, "nowhere");
    assert!(reason.contains("No such file"), "{reason}");
    assert_eq!(supervisor.embed(&["a"]), before);
}

#[test]
fn serving_and_ready_versions_are_answered_at_once() {
    let mut supervisor = Supervisor::serving("tiny/a");
    for (name, first) in [("tiny/a", false), ("tiny/b", true), ("tiny/b", false)] {
        supervisor.load_ahead(name);
        let (_, message) = supervisor.receive();
        let FromWorker::LoadedAhead { load_micros, .. } = message else { panic!("{message:?}") };
        assert_eq!(load_micros > 0, first, "{name}");
    }
}
