//! Workers that do not go on: stopped from outside, or in a kernel that does not end.

use std::time::Duration;

use e2e::{
    corpus::Corpus,
    fixtures::model,
    load::Load,
    processes::{self, Signal},
    server::Server,
};
use hyper::Method;
use serde_json::{Value, json};

/// Runs of the loop in `tiny/tensor_rounds` that take hours.
const ENDLESS: i64 = 1 << 50;

fn rounds(count: i64) -> String {
    json!({"inputs": [{"name": "rounds", "datatype": "INT64", "shape": [1], "data": [count]}]})
        .to_string()
}

async fn ask(server: &Server, count: i64, timeout_ms: &str) -> (u16, Value) {
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
async fn a_worker_that_goes_on_at_once_is_left_alone() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let before = server.settled().await;
    for pid in before.pids() {
        processes::signal(pid, Signal::SIGSTOP);
        tokio::time::sleep(Duration::from_millis(200)).await;
        processes::signal(pid, Signal::SIGCONT);
    }
    // Longer than a stopped worker is left alone.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(server.settled().await.pids(), before.pids());
    assert_eq!(stopped_count(&server).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_run_ends_with_its_requests_time_and_the_worker_serves_on() {
    let server = Server::builder().model("r", &model("tiny/tensor_rounds")).start().await;
    let before = server.settled().await.pids();
    for _ in 0..3 {
        assert_eq!(ask(&server, ENDLESS, "300").await.0, 504);
    }
    // More than there are workers, so that one of those that had hung answers, too.
    for _ in 0..8 {
        assert_eq!(ask(&server, 3, "30000").await.0, 200);
    }
    let status = server.settled().await;
    assert_eq!(status.pids(), before, "no worker had to be killed");
    assert_eq!(status.counter("groups_terminated_total"), 3);
    server.stop().await;
}
