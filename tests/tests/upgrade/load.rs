//! Successions under load, also during updates.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use e2e::{client::Client, corpus::Corpus, fixtures::model, load::Load, processes, server::Server};
use serde_json::json;

use crate::Succession;

#[tokio::test(flavor = "multi_thread")]
async fn twenty_successions_under_load_fail_no_request() {
    let line = Succession::start(Server::builder().model("m", &model("tiny/a"))).await;
    let mut load = Load::start(&line.server, "m", Corpus::tiny(), "a", 4).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (address, stopped) = (line.server.address(), Arc::clone(&stop));
    let connecting = tokio::spawn(async move {
        let mut answered = 0;
        while !stopped.load(Ordering::Relaxed) {
            let mut client = Client::connect(address).await.expect("a connection");
            let answer = client.post("/embed", &json!({"inputs": "a"})).await;
            assert_eq!(answer.map(|answer| answer.status), Ok(200), "after {answered}");
            answered += 1;
        }
        answered
    });
    line.succeed().await;
    let before = processes::open_files(line.pid()).len();
    for round in 1..20 {
        // Sent during a succession, the update must be done exactly once, by the right process.
        let (from, content) =
            if round % 2 == 0 { (model("tiny/a"), "a") } else { (model("tiny/b"), "b") };
        let (updated, ()) = tokio::join!(load.update(&line.server, &from, content), line.succeed());
        let generation = updated.expect("an update").generation;
        assert_eq!(generation, round + 1, "no update is lost or done twice");
    }
    load.more(50).await;
    stop.store(true, Ordering::Relaxed);
    assert!(connecting.await.expect("no failed request") > 100);
    let summary = load.finish().await;
    assert!(summary.answered > 500, "{summary:?}");
    e2e::eventually(
        "as few descriptors as after the first succession",
        crate::TIMEOUT,
        async || (processes::open_files(line.pid()).len() <= before + 2).then_some(()),
    )
    .await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_gets_an_answer_that_closes_its_connection() {
    let line = Succession::start(Server::builder().model("m", &model("tiny/a"))).await;
    let mut client = line.server.client().await;
    assert_eq!(client.get("/health").await.map(|answer| answer.status), Ok(200));
    let from = line.server.stderr().len();
    line.signal(processes::Signal::SIGUSR2);
    line.wait_for_log("draining", from).await;
    let answer = client.post("/embed", &json!({"inputs": "a"})).await;
    assert_eq!(answer.map(|answer| answer.status), Ok(200));
    assert!(client.closing(), "the server announced a close");
    // The client opens a new connection, to the successor.
    let answer = client.post("/embed", &json!({"inputs": "a"})).await;
    assert_eq!(answer.map(|answer| answer.status), Ok(200));
    line.stop().await;
}
