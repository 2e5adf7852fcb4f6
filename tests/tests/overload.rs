//! Overload and short deadlines: requests beyond the queue are refused immediately, and the others
//! are answered within their time limit.

use std::time::{Duration, Instant};

use e2e::{
    client::{Client, Response},
    fixtures::model,
    processes::{self, Signal},
    server::Server,
};
use serde_json::json;

/// Posts a request with `x-request-timeout-ms`.
async fn within(server: &Server, timeout: &str) -> Response {
    let body = r#"{"inputs":"a"}"#;
    let request = format!(
        "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         x-request-timeout-ms: {timeout}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let timeout = Duration::from_secs(20);
    let raw = e2e::client::exchange(server.address(), request.as_bytes(), timeout).await;
    let raw = raw.expect("a connection");
    let status = raw.status().expect("an answer");
    Response { status, headers: hyper::HeaderMap::new(), body: raw.body().into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_queue_get_429_with_retry_after() {
    let server = Server::builder()
        .model("m", &model("minilm"))
        .argument("--queue-limit")
        .argument("32")
        .start()
        .await;
    let pending = (0..80).map(|number| {
        let address = server.address();
        tokio::spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            let mut seen = Vec::new();
            for turn in 0..3 {
                let text = format!("{number} {turn} {}", "word ".repeat(40));
                seen.push(client.post("/embed", &json!({"inputs": text})).await.unwrap());
            }
            seen
        })
    });
    let mut refused = 0;
    for one in pending.collect::<Vec<_>>() {
        for response in one.await.unwrap() {
            match response.status {
                200 => assert_eq!(response.embeddings()[0].len(), 384),
                429 => {
                    let number = |name| response.header(name).unwrap().parse::<u64>().unwrap();
                    let (seconds, millis) = (number("retry-after"), number("retry-after-ms"));
                    assert!((50..=30_000).contains(&millis), "{millis}");
                    assert_eq!(seconds, millis.div_ceil(1000));
                    assert_eq!(response.json()["error_type"], "Overloaded");
                    refused += 1;
                }
                other => panic!("{other}: {}", response.text()),
            }
        }
    }
    assert!(refused > 0, "the queue was never full");
    assert_eq!(server.status().await.counter("requests_overloaded_total"), refused);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_timeout_header_is_enforced() {
    let server =
        Server::builder().tolerates_stopped_workers().model("m", &model("tiny/a")).start().await;
    assert_eq!(within(&server, "5000").await.status, 200);
    for wrong in ["0", "-1", "soon", "1.5"] {
        let response = within(&server, wrong).await;
        assert_eq!(response.status, 400, "{wrong}");
        assert!(response.text().contains("x-request-timeout-ms"), "{}", response.text());
    }
    let pids = server.settled().await.pids();
    pids.iter().for_each(|&pid| processes::signal(pid, Signal::SIGSTOP));
    let begin = Instant::now();
    let response = within(&server, "300").await;
    assert_eq!(response.status, 504, "{}", response.text());
    assert!(response.text().contains("0.3 s"), "{}", response.text());
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    pids.iter().for_each(|&pid| processes::signal(pid, Signal::SIGCONT));
    assert_eq!(within(&server, "10000").await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_requests_are_not_computed() {
    let server =
        Server::builder().tolerates_stopped_workers().model("m", &model("tiny/a")).start().await;
    let pids = server.settled().await.pids();
    pids.iter().for_each(|&pid| processes::signal(pid, Signal::SIGSTOP));
    // The first few are already on their way to workers; the others time out in the queue.
    for _ in 0..8 {
        assert_eq!(within(&server, "50").await.status, 504);
    }
    pids.iter().for_each(|&pid| processes::signal(pid, Signal::SIGCONT));
    assert_eq!(within(&server, "10000").await.status, 200);
    let status = server.status().await;
    assert!(status.counter("items_cancelled_total") >= 4, "{:?}", status.counters);
    server.stop().await;
}
