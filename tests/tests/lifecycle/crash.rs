//! Crash points: after a kill at any step of an update, the next start serves the old or the new
//! generation and leaves nothing behind. The engine's `models/store/crash.rs` defines the steps;
//! only debug builds have them.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    sync::Arc,
};

use e2e::{
    corpus::{Corpus, TOLERANCE, distance},
    disk::Disk,
    home::Home,
    launch::Builder,
    processes::Signal,
    server::Server,
};

use crate::{embed, served, tiny, variant_of};

/// Crash points in the order of an update.
const CRASH_POINTS: std::ops::RangeInclusive<u32> = 1..=9;
/// From this point on, the record of the new generation has its final name.
const RECORDED: u32 = 8;

fn builder(home: &Arc<Home>) -> Builder {
    Server::builder().home(home).model("m", &tiny("a"))
}

fn with_crash_point(home: &Arc<Home>, point: u32) -> Builder {
    builder(home).variable("ONNXD_CRASH_POINT", &point.to_string())
}

/// Starts without a crash point. Asserts that there are no leftovers and that a known content is
/// served.
async fn recover(home: &Arc<Home>, point: u32) -> Server {
    let server = builder(home).start().await;
    let left = Disk::new(home).leftovers();
    assert!(left.is_empty(), "after crash point {point}: {left:?}");
    let corpus = Corpus::tiny();
    let embedding = embed(&server, &corpus.texts[1]).await;
    let known = ["a", "b"].map(|content| distance(&corpus.contents[content][1], &embedding));
    assert!(known.iter().any(|&distance| distance < TOLERANCE), "{known:?}");
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_an_update_preserves_a_whole_generation() {
    let home = Arc::new(Home::new());
    let mut numbers = BTreeSet::new();
    // The first start passes all crash points as well.
    builder(&home).start().await.stop().await;
    for point in CRASH_POINTS {
        let from = variant_of(&home, "b", &point.to_string());
        let mut server = with_crash_point(&home, point).start().await;
        let (old, old_version) = served(&server, "m").await;
        numbers.insert(old);
        let output = server.cli(&["update", "m", "--from", from.to_str().unwrap()]).await;
        assert!(
            !output.status.success(),
            "not a debug build, or no crash point {point}: {output:?}"
        );
        let exit = server.wait_ignoring_staging().await;
        assert_eq!(exit.signal(), Some(Signal::SIGKILL as i32), "crash point {point}");

        let server = recover(&home, point).await;
        let (generation, version) = served(&server, "m").await;
        let is_old = (generation, &version) == (old, &old_version);
        let is_new = generation == old + 1 && version != old_version;
        assert!(is_old || (is_new && point >= RECORDED), "crash point {point}: {generation}");
        numbers.insert(generation);

        let next = server.update("m", Some(&from)).await.unwrap();
        assert!(numbers.iter().all(|&used| used < next.generation), "{numbers:?}, {next:?}");
        numbers.insert(next.generation);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_during_the_first_start_does_not_break_the_next() {
    for point in CRASH_POINTS {
        let home = Arc::new(Home::new());
        let mut server = with_crash_point(&home, point).spawn();
        let exited = server.ready().await.expect_err("not a debug build, or no such crash point");
        assert_eq!(exited.code, None, "crash point {point}: {}", exited.stderr);
        drop(server);

        let server = recover(&home, point).await;
        assert_eq!(served(&server, "m").await.0, 1, "crash point {point}");
        let next = server.update("m", Some(&tiny("b"))).await.unwrap();
        assert_eq!(next.generation, 2, "crash point {point}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_removes_partial_files_of_every_kind() {
    let home = Arc::new(Home::new());
    builder(&home).start().await.stop().await;
    let disk = Disk::new(&home);
    let version = disk.versions().into_iter().next().unwrap();
    let nobodys = "0".repeat(64);
    let directories = [
        "staging/x/1_Pooling".to_owned(),
        format!("versions/{nobodys}"),
        format!("versions/{version}.removed"),
        format!("compiled/{nobodys}"),
        format!("compiled/{version}.removed/0123456789abcdef"),
    ];
    for directory in directories.iter().map(|name| home.state().join(name)) {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("model.onnx"), "half").unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o555)).unwrap();
    }
    fs::write(home.state().join("staging/y"), "{").unwrap();
    assert_eq!(disk.leftovers().len(), 6);
    let server = recover(&home, 0).await;
    assert_eq!(served(&server, "m").await, (1, version));
    server.stop().await;
}
