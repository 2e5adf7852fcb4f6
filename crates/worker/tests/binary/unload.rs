//! Unloading a model from a running worker.

use std::{thread, time::Duration};

use onnxd_proto::wire::{
    ask::Rejection,
    message::{FromWorker, ToWorker},
};

use crate::{memory::kilobytes, supervisor::Supervisor};

/// Tells the worker to forget the model.
fn forget(supervisor: &mut Supervisor) {
    supervisor.send(&ToWorker::Forget { slot: 5 }, &[]);
}

#[test]
fn unload_frees_memory_and_rejects_late_groups() {
    let mut supervisor = Supervisor::serving("minilm");
    supervisor.embed(&["How do I reset my password?"]);
    let before = kilobytes(&supervisor, "Pss:");
    supervisor.unload();
    forget(&mut supervisor);
    assert_eq!(supervisor.receive(), (0, FromWorker::Unloaded { slot: 5 }));
    assert!(matches!(supervisor.receive(), (_, FromWorker::Forgotten)));
    supervisor.ask(&["a", "b"]);
    for answer in supervisor.answers(2) {
        assert!(matches!(answer, Err(Rejection::NotLoaded(_))), "{answer:?}");
    }
    // Memory is freed in the background.
    let mut after = before;
    for _ in 0..100 {
        after = kilobytes(&supervisor, "Pss:");
        if after + 60_000 < before {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(after + 60_000 < before, "{before} → {after} kB, and the model has 90 MB");

    supervisor.commit(2, "minilm");
    supervisor.ask(&["a"]);
    supervisor.expect_loaded(2);
    assert_eq!(supervisor.answers(1).remove(0).unwrap().generation, 2);
}

#[test]
fn version_loaded_ahead_of_an_unloaded_model_can_be_dropped() {
    let mut supervisor = Supervisor::serving("tiny/a");
    supervisor.unload();
    forget(&mut supervisor);
    assert_eq!(supervisor.receive().1, FromWorker::Unloaded { slot: 5 });
    assert_eq!(supervisor.receive().1, FromWorker::Forgotten);
    supervisor.load_ahead("tiny/b");
    assert!(matches!(supervisor.receive().1, FromWorker::LoadedAhead { .. }));
    // A ping neither drops it nor reports anything.
    supervisor.send(&ToWorker::Ping, &[]);
    assert_eq!(supervisor.receive().1, FromWorker::Pong);
    forget(&mut supervisor);
    assert_eq!(supervisor.receive().1, FromWorker::Forgotten);
    supervisor.commit(2, "tiny/b");
    supervisor.ask(&["a"]);
    let (_, took) = supervisor.expect_loaded(2);
    assert!(!took.is_zero(), "the version must be loaded again");
    supervisor.answers(1);
}
