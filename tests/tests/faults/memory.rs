//! Workers that grow are recycled without failing requests.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use e2e::{
    client::Client, corpus::Corpus, eventually, fixtures::model, kinds::HttpRequest, load::Load,
    server::Server,
};
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(120);
/// Side of an image that makes a worker grow: 27 MB, which its allocator keeps.
const SIDE: usize = 1_500;
/// Growth above the initial memory that a worker is allowed here.
const GROWTH_MIB_MAX: u64 = 8;

fn large_image() -> HttpRequest {
    let bytes = 3 * SIDE * SIDE * size_of::<f32>();
    let json = json!({
        "inputs": [{"name": "image", "shape": [1, 3, SIDE, SIDE], "datatype": "FP32",
            "parameters": {"binary_data_size": bytes}}],
        "parameters": {"binary_data_output": true},
    })
    .to_string();
    let headers = vec![("inference-header-content-length", json.len().to_string())];
    let body: Bytes = [json.as_bytes(), &vec![0; bytes]].concat().into();
    HttpRequest { path: "/v2/models/i/infer".into(), headers, body }
}

/// Returns the memory of the largest worker after loading everything, in MiB.
async fn at_start(workers: usize) -> u64 {
    let server = builder(workers).start().await;
    let status = server.settled().await;
    let largest = status.workers.iter().filter_map(|worker| worker.memory_bytes).max();
    server.stop().await;
    largest.expect("running workers") >> 20
}

fn builder(workers: usize) -> e2e::launch::Builder {
    let builder = Server::builder().workers(workers).model("m", &model("tiny/a"));
    builder.model("i", &model("tiny/tensor_image"))
}

async fn grows_and_is_recycled(workers: usize, times: u64) {
    let limit = at_start(workers).await + GROWTH_MIB_MAX;
    let builder = builder(workers).argument("--worker-memory").argument(&limit.to_string());
    let server = builder.start().await;
    let before = server.settled().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 6).await;
    let request = Arc::new(large_image());
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..2 {
        clients.push(server.client().await);
    }
    eventually("workers are recycled", TIMEOUT, async || {
        for client in &mut clients {
            assert_eq!(request.send(client).await.map(|response| response.status), Ok(200));
        }
        (server.status().await.counter("workers_recycled_total") >= times).then_some(())
    })
    .await;
    load.more(50).await;
    load.finish().await;
    let after = server.settled().await;
    let recycled = after.counter("workers_recycled_total");
    assert_ne!(before.pids(), after.pids());
    assert_eq!(recycled, times, "no worker more than once a minute");
    assert_eq!(after.restarts(), 0, "no worker crashed");
    assert_eq!(after.counter("items_retried_total"), 0, "no item was interrupted");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_workers_are_recycled_in_turn_without_failures() {
    grows_and_is_recycled(2, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_while_the_only_worker_is_recycled() {
    grows_and_is_recycled(1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_small_a_memory_limit_is_logged_once_and_recycles_none() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let server = builder.argument("--worker-memory").argument("1").start().await;
    let before = server.settled().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    // Longer than the interval between memory checks.
    tokio::time::sleep(Duration::from_secs(4)).await;
    load.finish().await;
    let after = server.settled().await;
    assert_eq!(before.pids(), after.pids());
    assert_eq!(after.counter("workers_recycled_total"), 0);
    assert_eq!(server.stderr().matches("--worker-memory").count(), 1, "{}", server.stderr());
    server.stop().await;
}
