//! Every directory answers like its reference library: for single texts, batches, and under
//! concurrent requests with other lengths.

use std::sync::Arc;

use e2e::{
    expected::{Case, Directory, names},
    server::Server,
};
use tokio::task::JoinSet;

use crate::{assert_none, cases_of, directories, fault, faults, serve};

/// Concurrent clients per model.
const CLIENTS: usize = 4;
/// Reported faults per directory.
const FAULTS_SHOWN_MAX: usize = 3;

/// Sends every request alone, then from several clients, each in its own order.
async fn try_model(server: &Server, directory: &Directory) -> Vec<String> {
    // Load the model first: loading 8,192 tokens could exceed the request timeout.
    if let Err(refusal) = server.update(&directory.name, Some(&directory.path)).await {
        return vec![format!("{}: {refusal:?}", directory.name)];
    }
    let cases = Arc::new(cases_of(directory));
    let mut found = faults(&mut server.client().await, &directory.name, &cases).await;
    if found.is_empty() {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let pending = run_in_turn(server, directory, &cases, number);
            clients.spawn(pending.await);
        }
        found = clients.join_all().await.into_iter().flatten().collect();
        found.iter_mut().for_each(|fault| *fault = format!("under load: {fault}"));
    }
    let more = found.len().saturating_sub(FAULTS_SHOWN_MAX);
    found.truncate(FAULTS_SHOWN_MAX);
    if more > 0 {
        found.push(format!("{}: and {more} more", directory.name));
    }
    found
}

async fn run_in_turn(
    server: &Server,
    directory: &Directory,
    cases: &Arc<Vec<Case>>,
    number: usize,
) -> impl Future<Output = Vec<String>> + Send + 'static {
    let (mut client, cases) = (server.client().await, Arc::clone(cases));
    let model = directory.name.clone();
    async move {
        let mut found = Vec::new();
        for index in 0..cases.len() {
            let case = &cases[(index * (2 * number + 1) + number * 3) % cases.len()];
            found.extend(fault(&mut client, &model, case).await);
        }
        found
    }
}

async fn try_all(wanted: impl Fn(&str) -> bool) {
    let builder = Server::builder();
    let directories = directories(&builder, wanted);
    let server = serve(builder, &directories).await;
    let mut found = Vec::new();
    for directory in &directories {
        found.extend(try_model(&server, directory).await);
    }
    assert_none(&found);
    assert_eq!(server.status().await.restarts(), 0, "no worker was restarted");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_embedder_matches_its_library() {
    try_all(|task| task == "embedding").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_model_matches_its_library() {
    try_all(|task| task != "embedding").await;
}

#[test]
fn all_directories_are_tested() {
    assert!(names().len() >= 36, "{:?}", names());
}
