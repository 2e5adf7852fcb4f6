//! The whole life of an update: checked apart, loaded ahead, committed at once, gone back from,
//! and nothing lost on the way, whatever is killed or full.

mod ahead;
mod canary;
mod compiled;
mod crash;
mod display;
mod fsync;
mod limits;
mod outside;
mod preload;
mod probation;
mod repository;
mod retention;
mod rollback;
mod space;
mod statuses;
mod storms;
mod two_models;
mod unload;

use std::{path::PathBuf, time::Duration};

use e2e::{
    eventually,
    fixtures::{model, variant},
    home::Home,
    processes::{self, Process, command_line},
    server::Server,
};
use serde_json::json;

/// One of the tiny test models.
fn tiny(name: &str) -> PathBuf {
    model(&format!("tiny/{name}"))
}

/// A version of its own that embeds as the tiny model `content` does.
fn variant_of(home: &Home, content: &str, name: &str) -> PathBuf {
    let directory = home.models().join(format!("{content}-{name}"));
    variant(&tiny(content), &directory, name);
    directory
}

/// Generation and version of a model.
async fn served(server: &Server, model: &str) -> (u64, String) {
    let status = server.status().await;
    let model = status.model(model);
    (model.generation, model.version.clone())
}

/// The embedding of a text, as it is served now.
async fn embed(server: &Server, text: &str) -> Vec<f32> {
    let response = server.client().await.post("/embed", &json!({"inputs": text})).await;
    response.expect("an answer").embeddings().remove(0)
}

/// The checkers that work for the supervisor of this home.
fn checkers(home: &Home) -> Vec<Process> {
    let mut found = processes::mentioning(&home.state());
    found.retain(|process| command_line(process.pid).contains("worker check "));
    found
}

/// The first of them, as soon as there is one.
async fn checker(home: &Home) -> Process {
    let patience = Duration::from_secs(20);
    eventually("a checker", patience, async || checkers(home).into_iter().next()).await
}
