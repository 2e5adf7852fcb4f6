//! Workers die, and clients do not notice.

use std::time::Duration;

use e2e::{
    corpus::Corpus,
    eventually,
    fixtures::model,
    load::Load,
    processes::{self, Signal},
    server::Server,
    tracer::Tracer,
};

const TIMEOUT: Duration = Duration::from_secs(20);

async fn server() -> Server {
    Server::builder().model("m", &model("tiny/a")).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced_and_no_request_fails() {
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
async fn requests_wait_when_all_workers_die_at_once() {
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
async fn a_paused_worker_delays_requests_but_fails_none() {
    let server =
        Server::builder().tolerates_stopped_workers().model("m", &model("tiny/a")).start().await;
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
async fn dead_idle_workers_are_replaced_without_a_request() {
    let server = server().await;
    for pid in server.settled().await.pids() {
        processes::signal(pid, Signal::SIGKILL);
    }
    assert_eq!(server.restarted(2).await.restarts(), 2);
    assert!(server.answers_ready().await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_exit_too_often_are_given_up_one_by_one() {
    let builder = Server::builder().argument("--worker-restarts=2").model("m", &model("tiny/a"));
    let mut server = builder.start().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    for restarts in 1..=2 {
        let victim = server.settled().await.workers[0].pid.unwrap();
        processes::signal(victim, Signal::SIGKILL);
        server.restarted(restarts).await;
    }
    processes::signal(server.settled().await.workers[0].pid.unwrap(), Signal::SIGKILL);
    let state = async |state: &str| (server.status().await.workers[0].state == state).then_some(());
    eventually("the worker is given up", TIMEOUT, async || state("failed").await).await;
    load.more(50).await;
    load.finish().await;
    assert!(server.answers_ready().await);
    assert_eq!(server.status().await.restarts(), 2, "a worker that was given up is not restarted");

    // All workers together may exit three times.
    processes::signal(server.status().await.workers[1].pid.unwrap(), Signal::SIGKILL);
    assert_eq!(server.wait().await.code(), Some(69), "{}", server.stderr());
    assert!(server.stderr().contains("--worker-restarts"), "{}", server.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_worker_starts_are_retried_and_not_counted() {
    let builder = Server::builder().model("m", &model("tiny/a")).argument("--worker-restarts=1");
    let server = builder.start().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    // The first clone of each thread: the process monitor's, then the first one in each worker.
    let Some(tracer) = Tracer::attach(&server, "clone", "error=EAGAIN:when=1").await else {
        eprintln!("SKIPPED: strace cannot attach");
        load.finish().await;
        return server.stop().await;
    };
    processes::signal(server.status().await.pids()[0], Signal::SIGKILL);
    eventually("three attempts to start", TIMEOUT, async || {
        let log = server.stderr();
        let began = log.matches("exit code 71").count();
        (log.matches("could not start").count() == 1 && began >= 2).then_some(())
    })
    .await;
    tracer.detach();
    let status = server.restarted(1).await;
    assert_eq!(status.workers[0].restarts, 1, "failed starts do not count as restarts");
    load.more(50).await;
    load.finish().await;
    server.stop().await;
}
