//! Each directory answers as its reference library does: a text alone, all texts in one request,
//! and while other clients ask for texts of other lengths.

use std::sync::Arc;

use e2e::{
    expected::{Case, Directory, names},
    server::Server,
};
use tokio::task::JoinSet;

use crate::{assert_none, cases_of, directories, fault, faults, serve};

/// Clients that ask a model at the same time.
const CLIENTS: usize = 4;
/// Faults that are shown of each directory.
const SHOWN: usize = 3;

/// Asks a model everything alone, then everything from several clients, each in its own order.
async fn try_model(server: &Server, directory: &Directory) -> Vec<String> {
    // A request that loads a model of 8,192 tokens could wait for longer than requests may.
    if let Err(refusal) = server.update(&directory.name, Some(&directory.path)).await {
        return vec![format!("{}: {refusal:?}", directory.name)];
    }
    let cases = Arc::new(cases_of(directory));
    let mut found = faults(&mut server.client().await, &directory.name, &cases).await;
    if found.is_empty() {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let asking = ask_in_turn(server, directory, &cases, number);
            clients.spawn(asking.await);
        }
        found = clients.join_all().await.into_iter().flatten().collect();
        found.iter_mut().for_each(|fault| *fault = format!("under load: {fault}"));
    }
    let more = found.len().saturating_sub(SHOWN);
    found.truncate(SHOWN);
    if more > 0 {
        found.push(format!("{}: and {more} more", directory.name));
    }
    found
}

async fn ask_in_turn(
    server: &Server,
    directory: &Directory,
    cases: &Arc<Vec<Case>>,
    number: usize,
) -> impl Future<Output = Vec<String>> + Send + 'static {
    let (mut client, cases) = (server.client().await, Arc::clone(cases));
    let model = directory.name.clone();
    async move {
        let mut found = Vec::new();
        for place in 0..cases.len() {
            let case = &cases[(place * (2 * number + 1) + number * 3) % cases.len()];
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
    assert_eq!(server.status().await.restarts(), 0, "no worker suffered");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_embedder_answers_as_its_library_does() {
    try_all(|task| task == "embedding").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_model_answers_as_its_library_does() {
    try_all(|task| task != "embedding").await;
}

#[test]
fn all_directories_are_tried() {
    assert!(names().len() >= 36, "{:?}", names());
}
