//! What clients and operators see of models that load on first use, before and after they fail.

use std::{fs, sync::Arc, time::Duration};

use e2e::{client::Response, eventually, fixtures::replace_model, home::Home, server::Server};
use serde_json::json;

use crate::tiny;

async fn get(server: &Server, path: &str) -> Response {
    server.client().await.get(path).await.expect("an answer")
}

async fn embed(server: &Server, model: &str) -> Response {
    let body = json!({"inputs": "a", "model": model});
    server.client().await.post("/embed", &body).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_ready_once_a_version_of_it_was_checked() {
    let home = Arc::new(Home::new());
    let start = || {
        let builder = Server::builder().home(&home).argument("--preload=good");
        let builder = builder.model("good", &tiny("a")).model("late", &tiny("b"));
        builder.model("broken", &tiny("no_tokenizer")).start()
    };
    let server = start().await;
    assert_eq!(get(&server, "/v2/health/ready").await.status, 200);
    assert_eq!(get(&server, "/v2/models/good/ready").await.status, 200);
    // Nothing is known of these.
    for model in ["late", "broken"] {
        let path = format!("/v2/models/{model}/ready");
        assert_eq!(get(&server, &path).await.status, 503, "{model}");
    }
    assert_eq!(embed(&server, "late").await.status, 200, "it still loads on first use");
    assert_eq!(get(&server, "/v2/models/late/ready").await.status, 200);
    assert_eq!(embed(&server, "broken").await.status, 503);
    assert_eq!(get(&server, "/v2/models/broken/ready").await.status, 503);
    server.stop().await;

    let server = start().await;
    assert_eq!(server.status().await.model("late").state, "not_loaded");
    assert_eq!(
        get(&server, "/v2/models/late/ready").await.status,
        200,
        "an earlier start checked it"
    );
    assert_eq!(get(&server, "/v2/models/broken/ready").await.status, 503);
    assert_eq!(embed(&server, "late").await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_broken_model_see_no_path_and_operators_its_failure() {
    let home = Arc::new(Home::new());
    let broken = home.models().join("broken");
    replace_model(&tiny("tensor_a"), &broken);
    fs::write(broken.join("model.onnx"), b"not a model").expect("a file");
    let builder = Server::builder().home(&home).argument("--preload=good");
    let builder = builder.model("good", &tiny("a")).model("broken", &broken);
    let server = builder.model("truncated", &tiny("truncated")).start().await;
    for model in ["broken", "truncated"] {
        let response = embed(&server, model).await;
        assert_eq!(response.status, 503, "{}", response.text());
        let text = response.text();
        assert!(!text.contains("/tmp/") && !text.contains("staging"), "{text}");
        assert!(text.contains("model.onnx"), "{text}");
        assert_eq!(server.status().await.model(model).state, "failed");
    }
    let missing = embed(&server, "missing").await;
    assert_eq!(missing.status, 404, "{}", missing.text());
    let text = missing.text();
    assert!(text.contains("available models: good"), "{text}");
    assert!(!text.contains("broken") && !text.contains("truncated"), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_another_source_is_not_ready_before_it_was_checked() {
    let home = Arc::new(Home::new());
    let start = |late: &str| {
        let builder = Server::builder().home(&home).argument("--preload=good");
        builder.model("good", &tiny("a")).model("late", &tiny(late)).start()
    };
    let server = start("b").await;
    assert_eq!(embed(&server, "late").await.status, 200);
    server.stop().await;

    let server = start("no_tokenizer").await;
    assert_eq!(get(&server, "/v2/models/late/ready").await.status, 503);
    assert_eq!(embed(&server, "late").await.status, 503);
    server.stop().await;

    let server = start("b").await;
    assert_eq!(get(&server, "/v2/models/late/ready").await.status, 200, "its source is back");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_one_model_do_not_hide_those_of_another() {
    let builder = Server::builder().argument("--preload=good").model("good", &tiny("a"));
    let builder = builder.model("first", &tiny("no_tokenizer"));
    let server = builder.model("second", &tiny("truncated")).start().await;
    for model in [["first"; 12].as_slice(), &["second"]].concat() {
        assert_eq!(embed(&server, model).await.status, 503, "{model}");
    }
    let lines = |model: &str| {
        let (log, model) = (server.stderr(), format!("model={model}"));
        let is_wanted =
            |line: &&str| line.contains("loading on first use failed") && line.contains(&model);
        log.lines().filter(is_wanted).count()
    };
    eventually("the line of the second model", Duration::from_secs(10), async || {
        (lines("second") == 1).then_some(())
    })
    .await;
    assert_eq!(lines("first"), 10, "each model has its own limit");
    server.stop().await;
}
