//! The lifecycle of versions: checks, loading ahead, commits, rollbacks, and recovery from kills
//! and full disks.

mod ahead;
mod canary;
mod compiled;
mod containment;
mod crash;
mod disk_full;
mod first_start;
mod first_use;
mod fsync;
mod limits;
mod missing_files;
mod output;
mod preload;
mod probation;
mod repository;
mod retention;
mod rollback;
mod statuses;
mod storms;
mod two_models;
mod unload;
mod unloadable;

use std::{path::PathBuf, time::Duration};

use e2e::{
    eventually,
    fixtures::{model, variant},
    home::Home,
    processes::{self, Process, command_line},
    server::Server,
};
use serde_json::json;

/// Returns a tiny test model.
fn tiny(name: &str) -> PathBuf {
    model(&format!("tiny/{name}"))
}

/// Creates a new version with the embeddings of the tiny model `content`.
fn variant_of(home: &Home, content: &str, name: &str) -> PathBuf {
    let directory = home.models().join(format!("{content}-{name}"));
    variant(&tiny(content), &directory, name);
    directory
}

/// Returns a model's generation and version.
async fn served(server: &Server, model: &str) -> (u64, String) {
    let status = server.status().await;
    let model = status.model(model);
    (model.generation, model.version.clone())
}

/// Returns the current embedding of a text.
async fn embed(server: &Server, text: &str) -> Vec<f32> {
    let response = server.client().await.post("/embed", &json!({"inputs": text})).await;
    response.expect("an answer").embeddings().remove(0)
}

/// Returns the running checkers of this home's supervisor.
fn checkers(home: &Home) -> Vec<Process> {
    let mut found = processes::mentioning(&home.state());
    found.retain(|process| command_line(process.pid).contains("worker check "));
    found
}

/// Waits for a running checker.
async fn checker(home: &Home) -> Process {
    let timeout = Duration::from_secs(20);
    eventually("a checker", timeout, async || checkers(home).into_iter().next()).await
}
