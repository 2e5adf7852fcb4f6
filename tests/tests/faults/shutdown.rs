//! SIGTERM drains; SIGHUP is safe at any time.

use std::time::{Duration, Instant};

use e2e::{
    client::{Client, Unanswered},
    corpus::Corpus,
    eventually,
    fixtures::model,
    history::Outcome,
    load::Load,
    processes::{self, Signal},
    server::Server,
};
use serde_json::json;

/// How long a new process may take until it handles signals.
const STARTED_MAX: Duration = Duration::from_secs(20);
/// By this time, the supervisor has read a request.
const ACCEPT_TIME: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_at_sigterm_are_answered() {
    let mut server = Server::builder().model("minilm", &model("minilm")).start().await;
    let body = json!({"inputs": vec!["word ".repeat(300); 8]});
    let mut pending = Vec::new();
    for _ in 0..4 {
        let (address, body) = (server.address(), body.clone());
        pending.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            let response = client.post("/embed", &body).await;
            (response.map(|response| response.status), client.closing())
        }));
    }
    tokio::time::sleep(ACCEPT_TIME).await;
    assert!(pending.iter().any(|pending| !pending.is_finished()), "nothing to drain");
    let exit = server.terminate().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
    for pending in pending {
        let (status, _) = pending.await.unwrap();
        assert_eq!(status, Ok(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_closes_connections_only_between_requests() {
    let mut server = Server::builder().model("m", &model("tiny/a")).start().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    load.more(200).await;
    let sigterm_at = load.now();
    let exit = server.terminate().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
    let history = load.stop().await;
    for request in &history.requests {
        match &request.outcome {
            Outcome::Answered(_) => {}
            // The supervisor may close an idle connection while a request is on its way.
            Outcome::Lost(_) if request.start + ACCEPT_TIME >= sigterm_at => {}
            _ => panic!("SIGTERM at {sigterm_at:?}: {request}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_drain_timeout_get_503() {
    let builder = Server::builder().model("r", &model("tiny/tensor_rounds"));
    let mut server = builder.argument("--drain-timeout=1").start().await;
    let address = server.address();
    let endless = json!({"inputs":
        [{"name": "rounds", "datatype": "INT64", "shape": [1], "data": [1_u64 << 50]}]});
    let pending = tokio::spawn(async move {
        Client::connect(address).await.unwrap().post("/v2/models/r/infer", &endless).await
    });
    tokio::time::sleep(ACCEPT_TIME).await;
    let start = Instant::now();
    let exit = server.terminate().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
    assert!(start.elapsed() >= Duration::from_secs(1), "the drain waits for the request");
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "the drain is shorter than the request timeout"
    );
    assert!(!server.stderr().contains("did not stop"), "{}", server.stderr());
    let answer = pending.await.unwrap().expect("an answer with the reason");
    assert_eq!(answer.status, 503, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_stops_the_server_immediately() {
    let mut server = Server::builder().model("m", &model("tiny/a")).start().await;
    // An unfinished request would delay the drain for 30 seconds.
    let head = b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    let address = server.address();
    let client =
        tokio::spawn(
            async move { e2e::client::exchange(address, head, Duration::from_secs(60)).await },
        );
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    server.signal(Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.signal(Signal::SIGTERM);
    server.wait().await;
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    client.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_during_start_and_stop_is_harmless() {
    // Before a new process installs its handlers, SIGHUP kills it; this cannot be avoided.
    for delay in [30, 31, 33, 36, 40, 60] {
        hang_up_from_start_to_end(Duration::from_millis(delay)).await;
    }
}

async fn hang_up_from_start_to_end(delay: Duration) {
    let mut server = Server::builder().model("m", &model("tiny/a")).spawn();
    tokio::time::sleep(delay).await;
    let mut ready = false;
    while !ready {
        server.signal(Signal::SIGHUP);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(server.runs(), "{}", server.stderr());
        ready = server.answers_ready().await;
    }
    server.ready().await.expect("the server is ready");
    let response = server.client().await.post("/embed", &json!({"inputs": "a"})).await;
    assert_eq!(response.map(|response| response.status), Ok(200));

    server.signal(Signal::SIGTERM);
    while server.runs() {
        server.signal(Signal::SIGHUP);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let exit = server.wait().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_during_start_stops_the_server() {
    for delay in [0, 50, 170] {
        let mut server = Server::builder().model("m", &model("tiny/a")).spawn();
        // Before a new process installs its handlers, the signal kills it; this cannot be avoided.
        let handles = async || processes::handles(server.pid(), Signal::SIGTERM).then_some(());
        eventually("its signal handlers", STARTED_MAX, handles).await;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let exit = server.terminate().await;
        assert_eq!(exit.code(), Some(0), "after {delay} ms: {}", server.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_delay_the_drain() {
    let mut server = Server::builder().model("m", &model("tiny/a")).start().await;
    let mut client = server.client().await;
    assert_eq!(client.get("/health").await.map(|response| response.status), Ok(200));
    let start = Instant::now();
    assert_eq!(server.terminate().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let after = client.get("/health").await;
    assert!(matches!(after, Err(Unanswered(_))), "{after:?}");
}
