//! An input that crashes its worker fails only its own request.

use std::sync::Arc;

use e2e::{client::Client, corpus::Corpus, fixtures::model, load::Load, server::Server};
use serde_json::{Value, json};

/// Number of requests with an impossible division.
const POISONOUS: usize = 50;
/// The quotient by -1 does not fit 64 bits, so the processor raises a signal.
const MIN: i64 = i64::MIN;

fn divide(a: &[i64], b: &[i64]) -> Value {
    let input = |name, data: &[i64]| json!({"name": name, "datatype": "INT64", "shape": [data.len()], "data": data});
    json!({"inputs": [input("a", a), input("b", b)]})
}

async fn ask(client: &mut Client, body: &Value) -> u16 {
    client.post("/v2/models/d/infer", body).await.expect("an answer").status
}

/// Starts a server with a model that can be crashed, and another one.
async fn server() -> Server {
    let builder = Server::builder().model("m", &model("tiny/a"));
    builder.model("d", &model("tiny/tensor_divide")).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_crashes_two_workers_is_refused() {
    let server = server().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    load.more(50).await;
    let mut client = server.client().await;
    for _ in 0..POISONOUS {
        assert_eq!(ask(&mut client, &divide(&[1, MIN], &[1, -1])).await, 500);
        assert_eq!(ask(&mut client, &divide(&[1, MIN], &[1, 1])).await, 200, "a similar input");
    }
    load.more(50).await;
    load.finish().await;
    let status = server.settled().await;
    assert_eq!(status.restarts(), 2, "restarts of all workers");
    assert_eq!(status.counter("items_poisonous_total"), 1);
    assert_eq!(status.counter("items_refused_total"), POISONOUS as u64 - 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_poisonous_requests_crash_few_workers() {
    let server = server().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    let body = Arc::new(divide(&[MIN], &[-1]));
    let mut asking = Vec::new();
    for _ in 0..POISONOUS {
        let (mut client, body) = (server.client().await, Arc::clone(&body));
        asking.push(tokio::spawn(async move { ask(&mut client, &body).await }));
    }
    for asking in asking {
        assert_eq!(asking.await.unwrap(), 500);
    }
    load.more(50).await;
    load.finish().await;
    // Both workers may get several of them at first; then each may crash again with a single one.
    let restarts = server.settled().await.restarts();
    assert!((2..=4).contains(&restarts), "{restarts}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_gets_another_try_at_a_poisonous_input() {
    let server = Server::builder().model("d", &model("tiny/tensor_divide")).start().await;
    let mut client = server.client().await;
    let bad = divide(&[MIN], &[-1]);
    assert_eq!(ask(&mut client, &bad).await, 500);
    let restarts = server.restarted(2).await.restarts();
    for _ in 0..10 {
        assert_eq!(ask(&mut client, &bad).await, 500);
    }
    // A new generation may succeed, so the input is tried again, by two workers.
    let variant = server.home().root().join("variant");
    e2e::fixtures::replace_model(&model("tiny/tensor_divide"), &variant);
    std::fs::write(variant.join("onnxd.toml"), "batch = false\n").unwrap();
    server.update("d", Some(&variant)).await.unwrap();
    assert_eq!(ask(&mut client, &bad).await, 500);
    assert_eq!(server.restarted(restarts + 2).await.restarts(), restarts + 2);
    server.stop().await;
}
