//! A version whose workers die is gone back from without being asked. No model file is known that
//! passes the check and kills workers, so workers are killed while they compute.

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

const PATIENCE: Duration = Duration::from_secs(20);

/// Kills a worker in the middle of a group, and waits until its successor serves.
async fn kill_while_it_computes(server: &Server, worker: usize) {
    let before = server.settled().await;
    let pid = before.workers[worker].pid.expect("it runs");
    // Stopped, it cannot finish what it is given; and it is given nothing while another is not.
    before.pids().into_iter().for_each(|pid| processes::signal(pid, Signal::SIGSTOP));
    let is_busy = async || (server.status().await.workers[worker].state == "busy").then_some(());
    eventually("the worker is given a group", PATIENCE, is_busy).await;
    // An answer that it sent before has been read by now, and it has been given another group.
    tokio::time::sleep(Duration::from_millis(50)).await;
    eventually("the worker is given a group", PATIENCE, is_busy).await;
    processes::signal(pid, Signal::SIGKILL);
    before.pids().into_iter().for_each(|pid| processes::signal(pid, Signal::SIGCONT));
    server.restarted(before.restarts() + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_whose_workers_die_twice_is_gone_back_from_and_quarantined() {
    let home = Arc::new(Home::new());
    let server =
        Server::builder().lets_workers_rest().home(&home).model("m", &tiny("a")).start().await;
    let old = served(&server, "m").await.1;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    let bad = load.update(&server, &tiny("b"), "b").await.unwrap();
    kill_while_it_computes(&server, 0).await;
    assert_eq!(served(&server, "m").await, (2, bad.version.clone()), "once is no reason");
    let start = load.now();
    kill_while_it_computes(&server, 1).await;
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

    let refusal = load.update(&server, &tiny("b"), "b").await.unwrap_err();
    assert_eq!(refusal.kind, "quarantined", "{refusal:?}");
    assert!(refusal.message.contains("--force"), "{refusal:?}");
    assert_eq!(server.rollback("m", None).await.unwrap_err().kind, "not_found", "nor by default");
    // Other versions are welcome, and this one if somebody insists.
    let other = variant_of(&home, "b", "other");
    assert_eq!(load.update(&server, &other, "b").await.unwrap().generation, 4);
    let forced = load.update_with(&server, &tiny("b"), "b", &["--force"]).await.unwrap();
    assert_eq!((forced.generation, &forced.version), (5, &bad.version));
    load.more(20).await;
    load.finish().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_what_was_gone_back_to_serves_and_the_bad_version_stays_out() {
    let home = Arc::new(Home::new());
    let start = || Server::builder().lets_workers_rest().home(&home).model("m", &tiny("a")).start();
    let server = start().await;
    let old = served(&server, "m").await.1;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    server.update("m", Some(&tiny("b"))).await.unwrap();
    kill_while_it_computes(&server, 1).await;
    kill_while_it_computes(&server, 1).await;
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
async fn idle_workers_that_die_accuse_no_version() {
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
async fn after_its_probation_a_version_stays_whoever_dies() {
    let server = Server::builder()
        .lets_workers_rest()
        .argument("--probation=1")
        .model("m", &tiny("a"))
        .start()
        .await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    load.update(&server, &tiny("b"), "b").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    kill_while_it_computes(&server, 0).await;
    kill_while_it_computes(&server, 1).await;
    load.more(20).await;
    load.finish().await;
    let status = server.status().await;
    assert_eq!(status.model("m").generation, 2);
    assert_eq!(status.counter("automatic_rollbacks_total"), 0);
    server.stop().await;
}
