//! Memory of several workers, and that it does not grow.

use std::{fs, thread, time::Duration};

use onnxd_proto::wire::message::FromWorker;

use crate::{checker::compile, embed::assert_is_minilm, fixtures::model, supervisor::Supervisor};

/// Returns the kilobytes in a line of a worker's `/proc/<pid>/smaps_rollup`.
pub(crate) fn kilobytes(supervisor: &Supervisor, line: &str) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", supervisor.child.id());
    let rollup = fs::read_to_string(path).unwrap();
    let value = rollup.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns a worker's private memory in kilobytes. Omits shared memory, whose proportional share
/// depends on other tests' processes.
fn private_kilobytes(worker: &Supervisor) -> u64 {
    kilobytes(worker, "Private_Dirty:") + kilobytes(worker, "Private_Clean:")
}

#[test]
fn workers_share_weights_and_compiled_forms_load_fast() {
    let root = tempfile::tempdir().unwrap();
    compile(&model("minilm"), root.path());
    let start = |compiled: bool| {
        let mut worker = Supervisor::start();
        if compiled {
            worker.link_compiled("minilm", root.path());
        }
        worker.commit(1, "minilm");
        let (is_compiled, took) = worker.wait_until_ready();
        assert_eq!(is_compiled, compiled);
        worker.embed(&["How do I reset my password?", &"word ".repeat(300)]);
        (worker, took)
    };
    let quickest_plain = (0..2).map(|_| start(false).1).min().unwrap();
    let (mut workers, mut took) = (Vec::new(), Vec::new());
    for count in 1..=3 {
        let (worker, one_took) = start(true);
        let private = private_kilobytes(&worker);
        println!("worker {count}: {private} kB private");
        assert!(count == 1 || private <= 40 * 1024, "worker {count}: {private} kB private");
        workers.push(worker);
        took.push(one_took);
    }
    assert_is_minilm(&mut workers[2]);
    let quickest = took.into_iter().min().unwrap();
    // The goal is half. The margin is for machines busy with other tests.
    assert!(quickest < quickest_plain * 6 / 10, "{quickest:?} instead of {quickest_plain:?}");
}

#[test]
fn memory_is_flat_after_many_swaps() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    compile(&model("tiny/a"), a.path());
    compile(&model("tiny/b"), b.path());
    let mut worker = Supervisor::start();
    worker.link_compiled("tiny-a", a.path());
    worker.link_compiled("tiny-b", b.path());
    worker.commit(1, "tiny/a");
    worker.wait_until_ready();
    let (mut after_20, mut maps_after_20) = (0, 0);
    for generation in 2..=400 {
        let name = ["tiny/a", "tiny/b"][usize::from(generation % 2 == 0)];
        worker.load_ahead(name);
        assert!(matches!(worker.receive().1, FromWorker::LoadedAhead { .. }));
        worker.commit(generation, name);
        worker.ask(&["a", "How big is London"]);
        assert_eq!(worker.expect_loaded(generation), (true, Duration::ZERO));
        worker.answers(2);
        if generation == 20 {
            (after_20, maps_after_20) = (settled(&worker), maps(&worker));
        }
    }
    let (rss, maps) = (settled(&worker), maps(&worker));
    assert!(rss * 10 <= after_20 * 11, "{after_20} → {rss} kB");
    assert!(maps <= maps_after_20 + 8, "{maps_after_20} → {maps} mappings");
}

/// Returns resident memory once swapped-out versions have been freed.
fn settled(worker: &Supervisor) -> u64 {
    thread::sleep(Duration::from_millis(100));
    kilobytes(worker, "Rss:")
}

fn maps(worker: &Supervisor) -> usize {
    let path = format!("/proc/{}/maps", worker.child.id());
    fs::read_to_string(path).unwrap().lines().count()
}
