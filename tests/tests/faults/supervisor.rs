//! A killed supervisor, and a second supervisor on the same state.

use std::{sync::Arc, time::Duration};

use e2e::{
    client::Client, corpus::Corpus, fixtures::model, home::Home, load::Load, server::Server,
};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_killed_supervisor_by_a_second() {
    let home = Arc::new(Home::new());
    for _ in 0..10 {
        let mut server = Server::builder().home(&home).model("m", &model("tiny/a")).start().await;
        let load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
        load.more(20).await;
        // Panics if a process, the admin socket or a file is left behind.
        server.kill().await;
        drop(load);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_in_a_long_inference_exit_with_the_supervisor() {
    let mut server = Server::builder().model("minilm", &model("minilm")).start().await;
    let body = json!({"inputs": vec!["word ".repeat(300); 32]});
    for _ in 0..4 {
        let (address, body) = (server.address(), body.clone());
        tokio::spawn(async move {
            Client::connect(address).await.ok()?.post("/embed", &body).await.ok()
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_killed_during_an_update_recovers_cleanly() {
    let home = Arc::new(Home::new());
    let mut generations = Vec::new();
    for delay in [5, 20, 60, 150] {
        let mut server = Server::builder().home(&home).model("m", &model("tiny/a")).start().await;
        generations.push(server.status().await.model("m").generation);
        let from = model("tiny/b");
        let arguments = ["update", "m", "--from", from.to_str().unwrap()];
        let killing = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            server.signal(e2e::processes::Signal::SIGKILL);
        };
        tokio::join!(server.cli(&arguments), killing);
        // A partial staging directory remains; the next start removes it.
        server.wait_ignoring_staging().await;
    }
    let server = Server::builder().home(&home).model("m", &model("tiny/a")).start().await;
    generations.push(server.status().await.model("m").generation);
    assert!(generations.is_sorted(), "{generations:?}");
    // Panics if anything is left in staging.
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_supervisor_on_the_same_state_names_the_first() {
    let home = Arc::new(Home::new());
    let first = Server::builder().home(&home).model("m", &model("tiny/a")).start().await;
    let pid = first.pid().to_string();
    let second = Server::builder().model("m", &model("tiny/a"));
    let mut second = second.state_of(&home).spawn();
    let exited = second.ready().await.unwrap_err();
    assert_eq!(exited.code, Some(78), "{}", exited.stderr);
    assert!(exited.stderr.contains(&pid), "{pid}: {}", exited.stderr);
    assert!(first.answers_ready().await, "the first keeps serving");
    first.stop().await;

    let third = Server::builder().home(&home).model("m", &model("tiny/a")).start().await;
    third.stop().await;
}
