//! Models loaded on their first request.

use std::{sync::Arc, time::Duration};

use e2e::{
    client::exchange, corpus::Corpus, eventually, fixtures::replace_model, home::Home, load::Load,
    processes::Signal, server::Server,
};
use serde_json::json;

use crate::{served, tiny};

/// Sends a request for an embedding on a new connection.
async fn embed(server: &Server, model: &str) -> e2e::client::Response {
    let body = json!({"inputs": "a", "model": model});
    server.client().await.post("/embed", &body).await.expect("an answer")
}

fn versions(home: &Home) -> usize {
    std::fs::read_dir(home.state().join("versions")).expect("a state directory").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_first_requests_load_a_model_once() {
    let home = Arc::new(Home::new());
    let start = || {
        let builder = Server::builder().home(&home).argument("--preload=none");
        builder.model("one", &tiny("a")).model("two", &tiny("b")).start()
    };
    for round in 0..2 {
        let server = start().await;
        let status = server.status().await;
        for model in ["one", "two"] {
            let model = status.model(model);
            assert_eq!((model.state.as_str(), model.generation), ("not_loaded", 0));
        }
        if round == 0 {
            assert_eq!(versions(&home), 0, "nothing is staged yet");
        }
        let mut pending = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let mut client = server.client().await;
            let body = json!({"inputs": "a", "model": "two"});
            pending.spawn(async move { client.post("/embed", &body).await.unwrap() });
        }
        for response in pending.join_all().await {
            assert_eq!(response.status, 200, "{}", response.text());
            assert_eq!(response.generation(), Some(1), "the same generation after a restart");
        }
        let status = server.settled().await;
        assert_eq!(status.counter("commits_total"), 1);
        assert_eq!(status.model("two").state, "loaded");
        assert_eq!(status.model("one").state, "not_loaded");
        assert_eq!(versions(&home), 1);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_source_fails_requests_for_its_model_only() {
    let home = Arc::new(Home::new());
    let source = home.models().join("late");
    replace_model(&tiny("no_tokenizer"), &source);
    let builder = Server::builder().home(&home).argument("--preload=good");
    let server = builder.model("good", &tiny("a")).model("late", &source).start().await;
    let load = Load::start(&server, "good", Corpus::tiny(), "a", 4).await;
    for _ in 0..3 {
        let response = embed(&server, "late").await;
        assert_eq!(response.status, 503, "{}", response.text());
        assert!(response.text().contains("tokenizer.json"), "{}", response.text());
    }
    assert_eq!(server.status().await.model("late").state, "failed");
    replace_model(&tiny("b"), &source);
    let response =
        eventually("a retry of the repaired source", Duration::from_secs(20), async || {
            Some(embed(&server, "late").await).filter(|response| response.status == 200)
        });
    assert_eq!(response.await.generation(), Some(1));
    load.more(20).await;
    load.finish().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_load_until_its_timeout() {
    let server = Server::builder().argument("--preload=none").model("m", &tiny("slow")).start();
    let server = server.await;
    let body = r#"{"inputs": "a"}"#;
    let request = format!(
        "POST /embed HTTP/1.1\r\nhost: x\r\nx-request-timeout-ms: 200\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let raw = exchange(server.address(), request.as_bytes(), Duration::from_secs(10)).await;
    let raw = raw.unwrap();
    assert_eq!(raw.status(), Some(504), "{}", raw.body());
    assert!(raw.body().contains("0.2 s"), "{}", raw.body());
    assert_eq!(
        server.status().await.model("m").state,
        "loading",
        "the load continues for later requests"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_updates_only_loaded_models() {
    let builder = Server::builder().argument("--preload=one");
    let builder = builder.model("one", &tiny("a")).model("two", &tiny("b"));
    let server = builder.model("three", &tiny("cls")).start().await;
    assert_eq!(server.update("three", None).await.unwrap().generation, 1);
    server.unload("three").await.unwrap();
    server.signal(Signal::SIGHUP);
    server.generation_above("one", 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (model, state) in [("two", "not_loaded"), ("three", "unloaded")] {
        let status = server.status().await;
        let model = status.model(model);
        assert_eq!((model.state.as_str(), model.generation), (state, 0), "{model:?}");
    }
    assert_eq!(server.update("two", None).await.unwrap().generation, 1);
    assert_eq!(served(&server, "two").await.0, 1);
    assert_eq!(embed(&server, "two").await.status, 200);
    server.stop().await;
}
