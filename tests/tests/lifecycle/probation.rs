//! Probation: a version whose workers die is rolled back automatically. No known model file passes
//! the check and then crashes workers, so the tests kill busy workers.

use std::{sync::Arc, time::Duration};

use e2e::{
    corpus::Corpus,
    eventually,
    home::Home,
    load::Load,
    processes::{self, Signal},
    server::Server,
};

use crate::{served, tiny, variant_of};

const TIMEOUT: Duration = Duration::from_secs(20);

/// Kills a worker in the middle of a group and waits for its successor.
async fn kill_while_busy(server: &Server, worker: usize) {
    let before = server.settled().await;
    let pid = before.workers[worker].pid.expect("the worker is running");
    // A stopped worker cannot finish its group. All are stopped, since an idle one would be
    // preferred.
    before.pids().into_iter().for_each(|pid| processes::signal(pid, Signal::SIGSTOP));
    let is_busy = async || (server.status().await.workers[worker].state == "busy").then_some(());
    eventually("the worker is given a group", TIMEOUT, is_busy).await;
    // By now, any earlier answer has been read and the worker has another group.
    tokio::time::sleep(Duration::from_millis(50)).await;
    eventually("the worker is given a group", TIMEOUT, is_busy).await;
    processes::signal(pid, Signal::SIGKILL);
    before.pids().into_iter().for_each(|pid| processes::signal(pid, Signal::SIGCONT));
    server.restarted(before.restarts() + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_two_worker_deaths_is_quarantined() {
    let home = Arc::new(Home::new());
    let server = Server::builder()
        .tolerates_stopped_workers()
        .home(&home)
        .model("m", &tiny("a"))
        .start()
        .await;
    let old = served(&server, "m").await.1;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    let bad = load.update(&server, &tiny("b"), "b").await.unwrap();
    kill_while_busy(&server, 0).await;
    assert_eq!(served(&server, "m").await, (2, bad.version.clone()), "one death is not enough");
    let start = load.now();
    kill_while_busy(&server, 1).await;
    load.follow(&server, start, 2, "a").await;
    load.more(20).await;

    let status = server.status().await;
    let model = status.model("m");
    assert_eq!((model.generation, &model.version), (3, &old));
    assert_eq!(model.quarantined, std::slice::from_ref(&bad.version));
    assert_eq!(status.counter("automatic_rollbacks_total"), 1);
    assert!(server.stderr().contains("rolling back automatically"), "the log says why");
    let text = String::from_utf8(server.cli(&["status"]).await.stdout).unwrap();
    assert!(text.contains("failed its probation"), "{text}");
    let scraped = server.client().await.get("/metrics").await.unwrap().text();
    assert!(scraped.contains("\nonnxd_model_quarantined_versions{model=\"m\"} 1\n"), "{scraped}");

    let refusal = load.update(&server, &tiny("b"), "b").await.unwrap_err();
    assert_eq!(refusal.kind, "quarantined", "{refusal:?}");
    assert!(refusal.message.contains("--force"), "{refusal:?}");
    assert_eq!(
        server.rollback("m", None).await.unwrap_err().kind,
        "not_found",
        "a default rollback skips it"
    );
    // Other versions are accepted, and this one with --force.
    let other = variant_of(&home, "b", "other");
    assert_eq!(load.update(&server, &other, "b").await.unwrap().generation, 4);
    let forced = load.update_with(&server, &tiny("b"), "b", &["--force"]).await.unwrap();
    assert_eq!((forced.generation, &forced.version), (5, &bad.version));
    load.more(20).await;
    load.finish().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_and_its_quarantine_survive_a_restart() {
    let home = Arc::new(Home::new());
    let start =
        || Server::builder().tolerates_stopped_workers().home(&home).model("m", &tiny("a")).start();
    let server = start().await;
    let old = served(&server, "m").await.1;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    server.update("m", Some(&tiny("b"))).await.unwrap();
    kill_while_busy(&server, 1).await;
    kill_while_busy(&server, 1).await;
    server.generation_above("m", 2).await;
    let history = load.stop().await;
    assert!(history.requests.iter().all(e2e::history::Request::was_answered));
    server.stop().await;

    let server = start().await;
    assert_eq!(served(&server, "m").await, (3, old));
    let refusal = server.update("m", Some(&tiny("b"))).await.unwrap_err();
    assert_eq!(refusal.kind, "quarantined", "{refusal:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deaths_of_idle_workers_blame_no_version() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    server.update("m", Some(&tiny("b"))).await.unwrap();
    for death in 0..4 {
        let workers = server.settled().await.workers;
        processes::signal(workers[death % 2].pid.unwrap(), Signal::SIGKILL);
        server.restarted(death as u64 + 1).await;
    }
    let status = server.status().await;
    assert_eq!(status.model("m").generation, 2);
    assert!(status.model("m").quarantined.is_empty());
    assert_eq!(status.counter("automatic_rollbacks_total"), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_deaths_after_the_probation_do_not_roll_back() {
    let server = Server::builder()
        .tolerates_stopped_workers()
        .argument("--probation=1")
        .model("m", &tiny("a"))
        .start()
        .await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    load.update(&server, &tiny("b"), "b").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    kill_while_busy(&server, 0).await;
    kill_while_busy(&server, 1).await;
    load.more(20).await;
    load.finish().await;
    let status = server.status().await;
    assert_eq!(status.model("m").generation, 2);
    assert_eq!(status.counter("automatic_rollbacks_total"), 0);
    server.stop().await;
}
