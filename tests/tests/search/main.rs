//! Search in collections of documents: what clients see while models change and processes die.

mod answers;
mod damage;
mod full_disk;
mod killed;
mod sparse;
mod starting;
mod succession;
mod updates;
mod vectors;

use std::{path::PathBuf, sync::Arc, time::Duration};

use e2e::{
    client::{Client, Response},
    eventually, fixtures,
    launch::Builder,
    processes::Process,
    search::{
        index_processes,
        load::Plan,
        requests::{self, Answer},
        spaces::Spaces,
    },
    server::Server,
};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a model directory below the tiny models.
fn tiny(name: &str) -> PathBuf {
    fixtures::model(&format!("tiny/{name}"))
}

/// Returns a builder that serves content `a` as `m`.
fn builder() -> Builder {
    Server::builder().model("m", &tiny("a"))
}

/// Returns texts in the spaces of both contents.
async fn spaces(count: usize) -> Arc<Spaces> {
    Spaces::learn(count, &[("a", &tiny("a")), ("b", &tiny("b"))]).await
}

/// A load of a few clients on a few hundred documents.
const PLAN: Plan =
    Plan { collection: "notes", model: "m", documents: 400, searchers: 3, writers: 2, seed: 1 };

/// Creates a collection that is bound to model `m`.
async fn create(client: &mut Client, collection: &str) {
    let created = requests::create(client, collection, "m").await.expect("an answer");
    assert_eq!(created.status, 200, "{}", created.text());
}

/// Stores documents whose ids count up from 0.
async fn put(client: &mut Client, collection: &str, texts: &[&str]) {
    let documents = (0..).zip(texts.iter().copied());
    let stored = requests::put(client, collection, documents).await.expect("an answer");
    assert_eq!(stored.status, 200, "{}", stored.text());
    assert_eq!(stored.json()["documents"], texts.len());
}

async fn search(client: &mut Client, collection: &str, query: &str, limit: usize) -> Response {
    requests::search(client, collection, query, limit).await.expect("an answer")
}

/// Searches and expects an answer.
async fn found(client: &mut Client, collection: &str, query: &str, limit: usize) -> Answer {
    let response = search(client, collection, query, limit).await;
    assert_eq!(response.status, 200, "{}", response.text());
    Answer::read(&response).expect("an answer of a search")
}

/// Waits for the only index process, and returns it if it is not `last`.
async fn next_index(supervisor: i32, last: Option<Process>) -> Process {
    eventually("an index process", TIMEOUT, async || {
        let running = index_processes(supervisor);
        assert!(running.len() <= 1, "{running:?}");
        running.into_iter().next().filter(|process| Some(*process) != last)
    })
    .await
}
