//! When the index process runs, and what a server without it answers.

use e2e::{
    client::Client,
    corpus::Corpus,
    fixtures,
    load::Load,
    search::{index_processes, requests},
};
use serde_json::json;

use crate::{builder, create, found, next_index, put, search};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_collections_has_no_index_process() {
    let server = builder().start().await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 2).await;
    load.more(20).await;
    load.finish().await;
    server.update("m", Some(&crate::tiny("b"))).await.expect("an update");
    server.status().await;
    assert!(index_processes(server.pid()).is_empty());
    assert!(!server.home().state().join("collections").exists());
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    next_index(server.pid(), None).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_survive_a_restart() {
    let mut texts: Vec<String> = (0..50).map(|number| format!("the year {number}")).collect();
    let home = builder().directories();
    for round in 0..3 {
        let server = builder().home(&home).start().await;
        let mut client = server.client().await;
        if round == 0 {
            create(&mut client, "notes").await;
        } else {
            assert_eq!(requests::export(&mut client, "notes").await.len(), 50 * round);
            let newest = 50 * (round as u64 - 1);
            let last = found(&mut client, "notes", "the year 0", 500).await;
            assert!(last.ids().contains(&newest), "{:?}", last.ids());
        }
        let first = 50 * round as u64;
        let documents = (first..).zip(texts.iter().map(String::as_str));
        let stored = requests::put(&mut client, "notes", documents).await.expect("an answer");
        assert_eq!(stored.status, 200, "{}", stored.text());
        texts.reverse();
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_executable_says_what_to_install() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["onnxd", "onnxd-worker"] {
        let from = fixtures::onnxd().with_file_name(name);
        std::fs::copy(from, folder.path().join(name)).expect("a copy");
    }
    let server = builder().executable(&folder.path().join("onnxd")).start().await;
    let mut client = server.client().await;
    let answer = search(&mut client, "notes", "a", 1).await;
    assert_eq!(answer.status, 503);
    let message = requests::error(&answer);
    assert!(message.contains("onnxd-index is not installed; install it"), "{message}");
    assert_eq!(embed(&mut client).await, 200, "embedding goes on");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn search_that_is_off_answers_404() {
    let server = builder().argument("--search=off").start().await;
    let mut client = server.client().await;
    let answer = search(&mut client, "notes", "a", 1).await;
    assert_eq!(answer.status, 404);
    assert!(requests::error(&answer).contains("--search off"), "{}", answer.text());
    assert_eq!(embed(&mut client).await, 200, "embedding goes on");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_answers_what_was_sent() {
    let mut server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &["hello"]).await;
    let texts: Vec<String> = (1..2000).map(|number| format!("the year {number}")).collect();
    let (mut writer, mut pending) = (server.client().await, Vec::new());
    pending.push(tokio::spawn(async move {
        let documents = (1..).zip(texts.iter().map(String::as_str));
        requests::put(&mut writer, "notes", documents).await.expect("an answer").status
    }));
    for _ in 0..4 {
        let mut client = server.client().await;
        let query = vec!["hello"; 32];
        pending.push(tokio::spawn(async move {
            let body = json!({"collection": "notes", "query": query});
            client.post("/search", &body).await.expect("an answer").status
        }));
    }
    // By then the requests are read.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(server.terminate().await.code(), Some(0));
    for pending in pending {
        assert_eq!(pending.await.expect("a client"), 200);
    }
    let server = builder().home(server.home()).start().await;
    let stored = requests::export(&mut server.client().await, "notes").await;
    assert_eq!(stored.len(), 2000);
    server.stop().await;
}

async fn embed(client: &mut Client) -> u16 {
    client.post("/embed", &json!({"inputs": "a"})).await.expect("an answer").status
}
