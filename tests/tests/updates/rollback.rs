//! A rollback commits old content as a new, higher generation.

use e2e::{fixtures::model, processes::Signal, server::Server};

use crate::copy_of;

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_serves_an_earlier_version_with_a_new_number() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let a = server.status().await.model("m").version.clone();
    let committed = server.update("m", Some(&model("tiny/b"))).await.unwrap();
    let b = committed.version.clone();
    assert_eq!((committed.previous_generation, committed.generation), (1, 2));
    assert_ne!(a, b);

    let back = server.rollback("m", None).await.unwrap();
    assert_eq!((back.previous_generation, back.generation, &back.version), (2, 3, &a));
    assert_served(&server, 3, &a).await;

    let forth = server.rollback("m", Some(2)).await.unwrap();
    assert_eq!((forth.previous_generation, forth.generation, &forth.version), (3, 4, &b));
    assert_served(&server, 4, &b).await;

    for never in [0, 5, 999] {
        let refusal = server.rollback("m", Some(never)).await.unwrap_err();
        assert_eq!(refusal.kind, "not_found", "{refusal:?}");
        assert!(refusal.message.contains(&never.to_string()), "{refusal:?}");
    }
    assert_served(&server, 4, &b).await;
    server.stop().await;
}

async fn assert_served(server: &Server, generation: u64, version: &str) {
    let body = serde_json::json!({"inputs": "a"});
    let response = server.client().await.post("/embed", &body).await.expect("an answer");
    assert_eq!(response.generation(), Some(generation));
    assert_eq!(response.version(), Some(version));
    let status = server.status().await;
    let model = status.model("m");
    assert_eq!((model.generation, model.version.as_str()), (generation, version));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_without_an_earlier_version_is_refused() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let refusal = server.rollback("m", None).await.unwrap_err();
    assert_eq!(refusal.kind, "not_found", "{refusal:?}");
    // The same content is the same version.
    let same = server.update("m", None).await.unwrap();
    assert_eq!(same.generation, 2);
    assert_eq!(server.rollback("m", None).await.unwrap_err().kind, "not_found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reloading_the_same_content_makes_a_new_generation() {
    let builder = Server::builder();
    let source = copy_of(&builder.directories(), "a");
    let server = builder.model("m", &source).start().await;
    let version = server.status().await.model("m").version.clone();
    server.signal(Signal::SIGHUP);
    let reloaded = server.generation_above("m", 1).await;
    assert_eq!((reloaded.generation, &reloaded.version), (2, &version));
    assert_served(&server, 2, &version).await;

    let again = server.update("m", None).await.unwrap();
    assert_eq!((again.generation, &again.version), (3, &version));
    server.stop().await;
}
