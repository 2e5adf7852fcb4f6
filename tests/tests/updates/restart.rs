//! Generations survive restarts of the supervisor, and numbers are never reused.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use e2e::{fixtures::model, home::Home, server::Server};
use serde_json::json;

use crate::copy_of;

async fn served(server: &Server) -> (u64, String) {
    let response = server.client().await.post("/embed", &json!({"inputs": "a"})).await;
    let response = response.expect("an answer");
    let version = response.version().expect("a version").to_owned();
    (response.generation().expect("a generation"), version)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_generation_is_served_after_any_restart() {
    let home = Arc::new(Home::new());
    let source = copy_of(&home, "a");
    let start = || Server::builder().home(&home).model("m", &source).start();

    let server = start().await;
    let b = server.update("m", Some(&model("tiny/b"))).await.unwrap();
    server.stop().await;

    let mut server = start().await;
    assert_eq!(served(&server).await, (2, b.version.clone()));
    server.kill().await;

    // The source may even be deleted: onnxd serves a copy.
    std::fs::remove_dir_all(&source).unwrap();
    let server = start().await;
    assert_eq!(served(&server).await, (2, b.version));
    let refusal = server.update("m", None).await.unwrap_err();
    assert_eq!(refusal.kind, "not_found", "{refusal:?}");
    let next = server.update("m", Some(&model("tiny/a"))).await.unwrap();
    assert_eq!(next.generation, 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_source_is_staged_at_the_next_start() {
    let home = Arc::new(Home::new());
    let start = |name: &str| {
        Server::builder().home(&home).model("m", &model(&format!("tiny/{name}"))).start()
    };
    let server = start("a").await;
    let (first, a) = served(&server).await;
    server.stop().await;

    let server = start("b").await;
    let (second, b) = served(&server).await;
    assert_eq!((first, second), (1, 2), "numbers are never reused");
    assert_ne!(a, b);
    // A rollback to the old version works across the restart.
    let back = server.rollback("m", None).await.unwrap();
    assert_eq!((back.generation, back.version), (3, a.clone()));
    server.stop().await;

    let server = start("b").await;
    assert_eq!(served(&server).await, (3, a), "the configuration has not changed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_and_its_file_uri_are_the_same_source() {
    let home = Arc::new(Home::new());
    let path = copy_of(&home, "a");
    let uri = |path: &Path| PathBuf::from(format!("file://{}", path.display()));
    let start = |source: &Path| Server::builder().home(&home).model("m", source).start();

    let server = start(&path).await;
    let b = server.update("m", Some(&uri(&model("tiny/b")))).await.unwrap();
    assert_eq!(b.generation, 2);
    server.stop().await;
    // Recorded as a path, the format of releases without URIs.
    let record = std::fs::read_to_string(home.state().join("generations/m/2")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["configured_source"], path.to_str().unwrap());

    let server = start(&uri(&path)).await;
    assert_eq!(served(&server).await, (2, b.version), "nothing new is staged");
    let output = server.cli(&["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["models"][0]["source"], path.to_str().unwrap());
    let own = server.update("m", None).await.unwrap();
    assert_eq!(own.generation, 3);
    let output = server.cli(&["update", "m", "--from", "ftp://host/m"]).await;
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("ftp") && message.contains("DIR or file:///DIR"), "{message}");
    server.stop().await;
}
