//! Models share workers fairly: a slow, flooded model delays only itself, and its queue is
//! separate.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::{
    client::{Client, Response},
    fixtures::{model, replace_model},
    launch::Builder,
    server::Server,
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    TEXT, TEXT_INDEX, assert_close,
    tensors::{float_request, infer},
};

const FLOOD: usize = 32;

/// Configures a slow model without batching, so that its queue becomes long, and a fast model.
fn both() -> Builder {
    let builder = Server::builder();
    let directory = builder.directories().models().join("slow");
    replace_model(&model("tiny/tensor_slow"), &directory);
    fs::write(directory.join("onnxd.toml"), "batch = false\n").expect("a file");
    builder.model("slow", &directory).model("fast", &model("tiny/a"))
}

async fn slow(client: &mut Client) -> Response {
    let body = float_request("x", &[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    client.post(&infer("slow"), &body).await.expect("an answer")
}

/// Returns the run time stated in the answer.
fn run_time(response: &Response) -> Duration {
    let timing = response.header("server-timing").expect("a header");
    let infer = timing.split(", ").find_map(|part| part.strip_prefix("infer;dur="));
    let millis: f64 = infer.and_then(|millis| millis.parse().ok()).expect("milliseconds");
    Duration::from_secs_f64(millis / 1e3)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Starts clients that query the slow model until `stop`. Each returns its answers with their
/// latencies.
fn flood(
    server: &Server,
    clients: usize,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<Vec<(Response, Duration)>>> {
    let one = |_| {
        let (address, stop) = (server.address(), Arc::clone(stop));
        tokio::spawn(async move {
            let mut client = Client::connect(address).await.expect("a connection");
            let mut seen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let response = slow(&mut client).await;
                let elapsed = start.elapsed();
                if response.status == 429 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                seen.push((response, elapsed));
            }
            seen
        })
    };
    (0..clients).map(one).collect()
}

/// Sends a request to the fast model and checks the answer.
async fn fast(client: &mut Client) -> Duration {
    let start = Instant::now();
    let body = json!({"inputs": TEXT, "model": "fast"});
    let response = client.post("/embed", &body).await.expect("an answer");
    let elapsed = start.elapsed();
    let expected = &e2e::fixtures::reference().models["a"][TEXT_INDEX];
    assert_close(&response.embeddings()[0], expected, "the fast model");
    elapsed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flooded_slow_model_does_not_starve_a_fast_one() {
    let server = both().start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = flood(&server, FLOOD, &stop);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut client = server.client().await;
    let mut latencies = Vec::new();
    for _ in 0..60 {
        latencies.push(fast(&mut client).await);
    }
    stop.store(true, Ordering::Relaxed);
    let (mut runs, mut waits) = (Vec::new(), Vec::new());
    for one in clients {
        for (response, elapsed) in one.await.expect("the flood's answers") {
            assert_eq!(response.status, 200, "{}", response.text());
            runs.push(run_time(&response));
            waits.push(elapsed);
        }
    }
    let (answered, run, wait) = (runs.len(), median(runs), median(waits));
    let last = latencies.iter().max().copied().unwrap_or_default();
    let typical = median(latencies);
    println!(
        "slow: {answered} answered, a run {run:?}, an answer {wait:?}; fast: an answer {typical:?}, \
         the last {last:?}"
    );
    assert!(answered >= FLOOD, "the slow model was starved: {answered} answers");
    assert!(wait >= 6 * run, "the slow model's queue was too short for this test");
    // The fast request waits for the current run, not for the queue.
    assert!(typical <= 2 * run, "fast {typical:?}, one slow run {run:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_only_requests_for_its_model() {
    let server = both().argument("--queue-limit=32").start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients = flood(&server, 2 * FLOOD, &stop);
    let overloaded = async || server.status().await.counter("requests_overloaded_total");
    let timeout = Duration::from_secs(20);
    e2e::eventually("a full queue", timeout, async || (overloaded().await > 0).then_some(())).await;
    let mut client = server.client().await;
    for _ in 0..40 {
        fast(&mut client).await;
    }
    // This fills the queue of the fast model.
    let body = json!({"inputs": vec![TEXT; 32], "model": "fast"});
    let response = client.post("/embed", &body).await.expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    stop.store(true, Ordering::Relaxed);
    let mut refused = 0;
    for one in clients {
        for (response, _) in one.await.expect("the flood's answers") {
            match response.status {
                200 => {}
                429 => {
                    let message = crate::message(&response.json());
                    assert!(message.contains("32"), "{message}");
                    assert!(response.header("retry-after").is_some());
                    refused += 1;
                }
                other => panic!("{other}: {}", response.text()),
            }
        }
    }
    assert!(refused > 0, "the queue was never full");
    assert_eq!(overloaded().await, refused);
    server.stop().await;
}
