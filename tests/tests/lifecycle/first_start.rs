//! What probes and operators see while the models of a first start are checked, and what the processes are called.

use std::{fs, sync::Arc, time::Duration};

use e2e::{
    client::{Client, Response},
    eventually,
    home::Home,
    processes::{self, Signal, command_line},
    server::Server,
};
use serde_json::{Value, json};

use crate::tiny;

const SOON: Duration = Duration::from_secs(60);

async fn get(server: &Server, path: &str) -> Response {
    server.client().await.get(path).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_say_which_model_a_first_start_checks() {
    let home = Arc::new(Home::new());
    let builder = Server::builder().home(&home).model("one", &tiny("a"));
    let mut server = builder.model("two", &tiny("slow")).spawn();
    eventually("an open port", SOON, async || Client::connect(server.address()).await.ok()).await;
    let reason = async || {
        let response = get(&server, "/v2/health/ready").await;
        let body: Value = serde_json::from_slice(&response.body).expect("JSON");
        (response.status == 503).then(|| body["reason"].as_str().unwrap_or_default().to_owned())
    };
    let second = "checking model two, 2 of 2";
    eventually("the second model", SOON, async || reason().await.filter(|is| is == second)).await;
    let checker = eventually("a checker", SOON, async || {
        let all = processes::mentioning(&home.state());
        all.into_iter().find(|process| command_line(process.pid).contains("worker check "))
    })
    .await;
    // Its check does not end meanwhile.
    checker.signal(Signal::SIGSTOP);
    assert_eq!(reason().await.as_deref(), Some(second));
    assert_eq!(get(&server, "/v2/health/live").await.status, 200);
    let status = server.cli(&["status"]).await;
    let shown = String::from_utf8_lossy(&status.stdout);
    assert!(shown.starts_with(&format!("STARTING: {second}")), "{shown}");
    let body = json!({"inputs": "a", "model": "two"});
    let answer = server.client().await.post("/embed", &body).await.expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains(second) && answer.header("retry-after").is_some());
    checker.signal(Signal::SIGKILL);
    server.ready().await.expect("a running server");
    let log = server.stderr();
    assert!(log.contains("model not served; its source is tried again"), "{log}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_processes_are_named_onnxd_worker() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    for pid in server.worker_pids().await {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("a process");
        assert_eq!(name.trim_end(), "onnxd-worker");
    }
    server.stop().await;
}
