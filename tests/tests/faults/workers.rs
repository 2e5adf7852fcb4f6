//! Workers die; clients do not notice.

use std::time::Duration;

use e2e::{
    corpus::Corpus,
    fixtures::model,
    load::Load,
    processes::{self, Signal},
    server::Server,
};

async fn server() -> Server {
    Server::builder().model("m", &model("tiny/a")).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced_and_counted_and_no_request_fails() {
    let server = server().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    for death in 0..4_usize {
        load.more(50).await;
        let before = server.settled().await;
        let victim = &before.workers[death % 2];
        processes::signal(victim.pid.unwrap(), Signal::SIGKILL);
        load.more(50).await;
        let after = server.restarted(before.restarts() + 1).await;
        assert_eq!(after.workers[death % 2].restarts, victim.restarts + 1);
        assert_ne!(after.workers[death % 2].pid, victim.pid);
        assert_eq!(after.workers[death % 2].cpu, victim.cpu);
    }
    load.finish().await;
    assert_eq!(server.status().await.restarts(), 4);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_workers_die_at_once_requests_only_wait() {
    let server = server().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    load.more(100).await;
    for pid in server.settled().await.pids() {
        processes::signal(pid, Signal::SIGKILL);
    }
    load.more(100).await;
    load.finish().await;
    assert_eq!(server.restarted(2).await.restarts(), 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_pauses_delays_requests_and_fails_none() {
    let server = server().await;
    let pids = server.settled().await.pids();
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    load.more(50).await;
    processes::signal(pids[0], Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(3)).await;
    processes::signal(pids[0], Signal::SIGCONT);
    load.more(200).await;
    load.finish().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_workers_that_die_are_replaced_without_a_request() {
    let server = server().await;
    for pid in server.settled().await.pids() {
        processes::signal(pid, Signal::SIGKILL);
    }
    assert_eq!(server.restarted(2).await.restarts(), 2);
    assert!(server.answers_ready().await);
    server.stop().await;
}
