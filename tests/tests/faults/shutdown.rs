//! SIGTERM drains; SIGHUP at a bad moment does no harm.

use std::time::{Duration, Instant};

use e2e::{
    client::{Client, Unanswered},
    corpus::Corpus,
    fixtures::model,
    history::Outcome,
    load::Load,
    processes::Signal,
    server::Server,
};
use serde_json::json;

/// A request that was sent this long before SIGTERM has been read by the supervisor.
const SURELY_ACCEPTED: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_run_when_it_is_told_to_stop_are_answered() {
    let mut server = Server::builder().model("minilm", &model("minilm")).start().await;
    let body = json!({"inputs": vec!["word ".repeat(300); 8]});
    let mut asking = Vec::new();
    for _ in 0..4 {
        let (address, body) = (server.address(), body.clone());
        asking.push(tokio::spawn(async move {
            let mut client = Client::connect(address).await.unwrap();
            let response = client.post("/embed", &body).await;
            (response.map(|response| response.status), client.closing())
        }));
    }
    tokio::time::sleep(SURELY_ACCEPTED).await;
    assert!(asking.iter().any(|asking| !asking.is_finished()), "there is something to drain");
    let exit = server.terminate().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
    for asking in asking {
        let (status, _) = asking.await.unwrap();
        assert_eq!(status, Ok(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_connections_end_only_between_requests() {
    let mut server = Server::builder().model("m", &model("tiny/a")).start().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    load.more(200).await;
    let told = load.now();
    let exit = server.terminate().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
    let history = load.stop().await;
    for request in &history.requests {
        match &request.outcome {
            Outcome::Answered(_) => {}
            // The supervisor may close a kept connection while a request is on its way to it.
            Outcome::Lost(_) if request.start + SURELY_ACCEPTED >= told => {}
            _ => panic!("told to stop at {told:?}: {request}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_still_runs_at_the_end_of_the_drain_is_cut() {
    let builder = Server::builder().model("r", &model("tiny/tensor_rounds"));
    let mut server = builder.argument("--drain-timeout=1").start().await;
    let address = server.address();
    let endless = json!({"inputs":
        [{"name": "rounds", "datatype": "INT64", "shape": [1], "data": [1_u64 << 50]}]});
    let asking = tokio::spawn(async move {
        Client::connect(address).await.unwrap().post("/v2/models/r/infer", &endless).await
    });
    tokio::time::sleep(SURELY_ACCEPTED).await;
    let begin = Instant::now();
    let exit = server.terminate().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
    assert!(begin.elapsed() >= Duration::from_secs(1), "it is waited for");
    assert!(begin.elapsed() < Duration::from_secs(15), "less than the request may take");
    assert!(!server.stderr().contains("did not stop"), "{}", server.stderr());
    let answer = asking.await.unwrap().expect("it is told why");
    assert_eq!(answer.status, 503, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_it_at_once() {
    let mut server = Server::builder().model("m", &model("tiny/a")).start().await;
    // A client that never finishes its request would hold up the drain for 30 seconds.
    let begun = b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
    let address = server.address();
    let client = tokio::spawn(async move {
        e2e::client::exchange(address, begun, Duration::from_secs(60)).await
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.signal(Signal::SIGTERM);
    server.wait().await;
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    client.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_while_it_starts_or_stops_does_no_harm() {
    // A process that is only being created has no handlers yet; nobody can change that.
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
    server.ready().await.expect("it is ready");
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
async fn told_to_stop_while_it_starts_it_stops() {
    for delay in [30, 80, 200] {
        let mut server = Server::builder().model("m", &model("tiny/a")).spawn();
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let exit = server.terminate().await;
        assert_eq!(exit.code(), Some(0), "after {delay} ms: {}", server.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let mut server = Server::builder().model("m", &model("tiny/a")).start().await;
    let mut client = server.client().await;
    assert_eq!(client.get("/health").await.map(|response| response.status), Ok(200));
    let begin = Instant::now();
    assert_eq!(server.terminate().await.code(), Some(0));
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    let after = client.get("/health").await;
    assert!(matches!(after, Err(Unanswered(_))), "{after:?}");
}
