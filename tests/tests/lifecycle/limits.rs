//! Limits on a candidate's time and memory, and the exit of its checker.

use std::{sync::Arc, time::Duration};

use e2e::{
    control::Control,
    corpus::Corpus,
    disk::Disk,
    eventually,
    home::Home,
    load::Load,
    processes::{Signal, nice},
    server::Server,
};

use crate::{checker, checkers, served, tiny};

const TIMEOUT: Duration = Duration::from_secs(20);

async fn assert_no_leftovers(home: &Home) {
    let disk = Disk::new(home);
    eventually("leftovers of a refused candidate are removed", TIMEOUT, async || {
        let left = disk.leftovers();
        (left.is_empty() && checkers(home).is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_over_its_time_or_memory_limit_is_refused() {
    let server = Server::builder()
        .argument("--check-timeout=3")
        .argument("--check-memory=600")
        .model("m", &tiny("a"))
        .start()
        .await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 2).await;
    for (name, kind) in [("expensive", "memory"), ("slow", "timeout")] {
        let refusal = load.update(&server, &tiny(name), "none").await.unwrap_err();
        assert_eq!(refusal.kind, kind, "{name}: {refusal:?}");
        assert_no_leftovers(server.home()).await;
        load.more(10).await;
    }
    load.update(&server, &tiny("b"), "b").await.unwrap();
    load.more(10).await;
    assert_eq!(load.finish().await.generations, 2);
    assert_eq!(server.status().await.restarts(), 0, "no worker was restarted");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_survives_concurrent_large_requests() {
    let server = Server::builder().argument("--check-timeout=16").model("m", &tiny("a")).start();
    let server = server.await;
    let mut call = Control::new(&server).update("m", &tiny("slow"), "ahead").await;
    call.step("passed").await;
    // These requests are large enough to be parsed on a separate runtime thread. The thread that
    // started the check then exits after ten idle seconds.
    let mut client = server.client().await;
    for _ in 0..1 {
        let inputs = vec!["word ".repeat(20_000); 16];
        let answer = client.post("/embed", &serde_json::json!({"inputs": inputs})).await;
        assert_eq!(answer.map(|answer| answer.status), Ok(200));
    }
    let refusal = call.end().await.1.expect_err("the check times out");
    assert_eq!(refusal.kind, "timeout", "{refusal:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_checker_refuses_only_its_candidate() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 2).await;
    let slow = tiny("slow");
    let killing = async {
        let checker = checker(server.home()).await;
        load.more(10).await;
        assert!(nice(checker.pid) >= 10, "the checker runs at low priority");
        checker.signal(Signal::SIGKILL);
    };
    let (refusal, ()) = tokio::join!(server.update("m", Some(&slow)), killing);
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.kind, "crash", "{refusal:?}");
    assert!(refusal.message.contains("signal 9"), "{refusal:?}");
    assert_no_leftovers(server.home()).await;
    load.more(10).await;
    assert_eq!(load.finish().await.generations, 1);
    assert_eq!(server.status().await.restarts(), 0, "no worker was restarted");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_a_check_leaves_nothing_behind() {
    let home = Arc::new(Home::new());
    let mut server = Server::builder().home(&home).model("m", &tiny("a")).start().await;
    let mut call = Control::new(&server).update("m", &tiny("slow"), "ahead").await;
    call.step("passed").await;
    let checker = checker(&home).await;
    // Panics if a process or anything in staging is left behind.
    assert_eq!(server.terminate().await.code(), Some(0));
    assert!(!checker.runs());
    let (_, outcome) = call.end().await;
    assert_eq!(outcome.unwrap_err().kind, "busy");

    let server = Server::builder().home(&home).model("m", &tiny("a")).start().await;
    assert_eq!(served(&server, "m").await.0, 1);
    assert_eq!(Disk::new(&home).leftovers(), [""; 0]);
    server.stop().await;
}
