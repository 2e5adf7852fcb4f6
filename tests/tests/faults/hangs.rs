//! Hung workers: stopped from outside, or in an endless kernel.

use std::{sync::Arc, time::Duration};

use e2e::{
    corpus::Corpus,
    eventually,
    exposition::Exposition,
    fixtures::model,
    load::Load,
    processes::{self, Signal},
    server::Server,
};
use hyper::Method;
use serde_json::{Value, json};

/// Iterations of the loop in `tiny/tensor_rounds` that would take hours.
const ENDLESS: i64 = 1 << 50;

fn rounds(count: i64) -> String {
    json!({"inputs": [{"name": "rounds", "datatype": "INT64", "shape": [1], "data": [count]}]})
        .to_string()
}

async fn infer(server: &Server, count: i64, timeout_ms: &str) -> (u16, Value) {
    let headers = [("content-type", "application/json"), ("x-request-timeout-ms", timeout_ms)];
    let mut client = server.client().await;
    let body = rounds(count).into();
    let path = "/v2/models/r/infer";
    let response = client.send_with(Method::POST, path, &headers, body).await.expect("an answer");
    (response.status, response.json())
}

async fn stopped_count(server: &Server) -> u64 {
    server.status().await.counter("workers_killed_total")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_is_replaced_and_no_request_fails() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    load.more(50).await;
    let before = server.settled().await;
    processes::signal(before.workers[0].pid.unwrap(), Signal::SIGSTOP);
    let after = server.restarted(1).await;
    assert_ne!(after.workers[0].pid, before.workers[0].pid);
    assert_eq!(after.workers[1].pid, before.workers[1].pid);
    load.more(50).await;
    load.finish().await;
    assert_eq!(stopped_count(&server).await, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_briefly_stopped_worker_is_not_replaced() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let before = server.settled().await;
    for pid in before.pids() {
        processes::signal(pid, Signal::SIGSTOP);
        tokio::time::sleep(Duration::from_millis(200)).await;
        processes::signal(pid, Signal::SIGCONT);
    }
    // Longer than the grace period of a stopped worker.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(server.settled().await.pids(), before.pids());
    assert_eq!(stopped_count(&server).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_run_ends_at_its_timeout_and_the_worker_survives() {
    let server = Server::builder().model("r", &model("tiny/tensor_rounds")).start().await;
    let before = server.settled().await.pids();
    for _ in 0..3 {
        assert_eq!(infer(&server, ENDLESS, "300").await.0, 504);
    }
    // More requests than workers, so that one that had hung answers as well.
    for _ in 0..8 {
        assert_eq!(infer(&server, 3, "30000").await.0, 200);
    }
    let status = server.settled().await;
    assert_eq!(status.pids(), before, "no worker had to be killed");
    assert_eq!(status.counter("groups_terminated_total"), 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_worker_is_killed_and_queued_requests_are_answered() {
    let builder = Server::builder().workers(1).tolerates_stopped_workers();
    let server = Arc::new(builder.model("r", &model("tiny/tensor_rounds")).start().await);
    let before = server.settled().await.pids();
    // The stopped worker receives no messages.
    processes::signal(before[0], Signal::SIGSTOP);
    let pending = |timeout_ms: &'static str| {
        let server = Arc::clone(&server);
        tokio::spawn(async move { infer(&server, 3, timeout_ms).await.0 })
    };
    let hung = pending("2000");
    let is_busy = async || (server.status().await.workers[0].state == "busy").then_some(());
    eventually("the worker is given a group", Duration::from_secs(20), is_busy).await;
    let concurrent = [pending("30000"), pending("30000"), pending("30000")];
    assert_eq!(hung.await.expect("an answer"), 504);
    for one in concurrent {
        assert_eq!(one.await.expect("an answer"), 200);
    }
    let status = server.restarted(1).await;
    assert_ne!(status.pids(), before);
    assert_eq!(status.counter("groups_terminated_total"), 1);
    let metrics = server.client().await.get("/metrics").await.expect("an answer").text();
    let metrics = Exposition::parse(&metrics).expect("an exposition");
    for (reason, count) in [("stopped", 1.0), ("hung", 0.0)] {
        let killed = metrics.value("onnxd_workers_killed_total", &[("reason", reason)]);
        assert_eq!(killed, count, "{reason}: the request is not to blame");
    }
    Arc::into_inner(server).expect("the only reference").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_not_ready_in_time_is_restarted() {
    let builder = Server::builder().tolerates_stopped_workers().argument("--start-timeout=10");
    let server = builder.model("m", &model("tiny/a")).start().await;
    // Stop the worker during its start. If it is too fast, kill it and try again.
    eventually("a worker stopped during its start", Duration::from_secs(60), async || {
        let worker = server.status().await.workers.swap_remove(0);
        let pid = worker.pid?;
        if worker.state != "starting" {
            processes::signal(pid, Signal::SIGKILL);
            return None;
        }
        processes::signal(pid, Signal::SIGSTOP);
        let worker = server.status().await.workers.swap_remove(0);
        (worker.state == "starting" && worker.pid == Some(pid)).then_some(())
    })
    .await;
    let killed = async || (stopped_count(&server).await > 0).then_some(());
    eventually("the worker is killed", Duration::from_secs(60), killed).await;
    server.settled().await;
    assert_eq!(stopped_count(&server).await, 1);
    server.stop().await;
}
