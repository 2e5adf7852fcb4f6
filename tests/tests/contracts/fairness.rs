//! Several models share the workers: one that is slow and flooded takes its own time, not that of
//! the others, and its queue is its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::{
    client::{Client, Response},
    fixtures::model,
    launch::Builder,
    server::Server,
};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    PLACE, TEXT, assert_close,
    tensors::{infer, of_floats},
};

const FLOOD: usize = 32;

fn both() -> Builder {
    Server::builder().model("slow", &model("tiny/tensor_slow")).model("fast", &model("tiny/a"))
}

async fn slow(client: &mut Client) -> Response {
    let body = of_floats("x", &[1, 4], &[1.0, 2.0, 3.0, 4.0]);
    client.post(&infer("slow"), &body).await.expect("an answer")
}

/// How long one request takes to the slow model alone, at the least.
async fn one_run(server: &Server) -> Duration {
    let mut client = server.client().await;
    let mut least = Duration::MAX;
    for _ in 0..5 {
        let begin = Instant::now();
        assert_eq!(slow(&mut client).await.status, 200);
        least = least.min(begin.elapsed());
    }
    least
}

/// Clients that ask the slow model until they are told to stop; each gives what it was answered.
fn flood(
    server: &Server,
    clients: usize,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<Vec<Response>>> {
    let one = |_| {
        let (address, stop) = (server.address(), Arc::clone(stop));
        tokio::spawn(async move {
            let mut client = Client::connect(address).await.expect("a connection");
            let mut seen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let response = slow(&mut client).await;
                if response.status == 429 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                seen.push(response);
            }
            seen
        })
    };
    (0..clients).map(one).collect()
}

/// One request to the fast model, which must be right.
async fn fast(client: &mut Client) -> Duration {
    let begin = Instant::now();
    let body = json!({"inputs": TEXT, "model": "fast"});
    let response = client.post("/embed", &body).await.expect("an answer");
    let elapsed = begin.elapsed();
    let expected = &e2e::fixtures::reference().models["a"][PLACE];
    assert_close(&response.embeddings()[0], expected, "the fast model");
    elapsed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flooded_slow_model_does_not_starve_a_fast_one() {
    let server = both().start().await;
    let alone = one_run(&server).await;
    let stop = Arc::new(AtomicBool::new(false));
    let flooding = flood(&server, FLOOD, &stop);
    tokio::time::sleep(5 * alone).await;
    let mut client = server.client().await;
    let mut latencies = Vec::new();
    for _ in 0..60 {
        latencies.push(fast(&mut client).await);
    }
    stop.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for one in flooding {
        for response in one.await.expect("the flood's answers") {
            assert_eq!(response.status, 200, "{}", response.text());
            answered += 1;
        }
    }
    latencies.sort();
    let (median, last) = (latencies[latencies.len() / 2], latencies[latencies.len() - 1]);
    println!("one slow run {alone:?}; fast median {median:?}, last {last:?}; {answered} slow ones");
    assert!(answered >= FLOOD, "the slow model is not starved either: {answered}");
    // It waits for the run that is going on, not for the queue behind it, which is ten times that.
    assert!(median <= 2 * alone, "median {median:?}, one slow run {alone:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_requests_of_its_own_model_only() {
    let server = both().argument("--queue-limit=32").start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let flooding = flood(&server, 2 * FLOOD, &stop);
    let overloaded = async || server.status().await.counter("requests_overloaded_total");
    let patience = Duration::from_secs(20);
    e2e::eventually("a full queue", patience, async || (overloaded().await > 0).then_some(()))
        .await;
    let mut client = server.client().await;
    for _ in 0..40 {
        fast(&mut client).await;
    }
    // As much as fits its own queue.
    let body = json!({"inputs": vec![TEXT; 32], "model": "fast"});
    let response = client.post("/embed", &body).await.expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    stop.store(true, Ordering::Relaxed);
    let mut refused = 0;
    for one in flooding {
        for response in one.await.expect("the flood's answers") {
            match response.status {
                200 => {}
                429 => {
                    let said = crate::message(&response.json());
                    assert!(said.contains("32"), "{said}");
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
