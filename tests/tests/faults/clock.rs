//! Paused processes and clock jumps fail no request.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use e2e::{corpus::Corpus, fixtures::model, load::Load, processes::Signal, server::Server};

/// From Debian's libfaketime package.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_supervisor_resumes_and_fails_no_request() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    load.more(50).await;
    server.signal(Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(5)).await;
    server.signal(Signal::SIGCONT);
    load.more(100).await;
    load.finish().await;
    assert_eq!(server.status().await.restarts(), 0, "no worker was considered dead");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clock_jumps_of_a_day_fail_no_request() {
    if !Path::new(FAKETIME).exists() {
        eprintln!("SKIPPED: install libfaketime for this test");
        return;
    }
    let builder = Server::builder();
    let clock = builder.directories().root().join("clock");
    let set = |offset: &str| fs::write(&clock, offset).unwrap();
    set("+0");
    let server = builder
        .model("m", &model("tiny/a"))
        .variable("LD_PRELOAD", FAKETIME)
        .variable("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .variable("FAKETIME_NO_CACHE", "1")
        // Like the kernel, let only the wall clock jump.
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start()
        .await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    for offset in ["+1d", "-1d", "+0"] {
        load.more(50).await;
        set(offset);
        load.more(50).await;
        load.reload(&server, "a").await;
    }
    load.finish().await;
    assert_eq!(server.status().await.restarts(), 0);
    let log = server.stderr();
    let days: BTreeSet<&str> = log.lines().filter_map(|line| line.get(..10)).collect();
    assert!(days.len() >= 3, "the clock did not jump: {days:?}");
    server.stop().await;
}
