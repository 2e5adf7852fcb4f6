//! Real-world layouts: external weights of any name, several exports of one model, links of the
//! hub's cache. The intended model is served, or the refusal names the file.

mod cache;
mod external;
mod selection;

use std::{
    fs,
    path::{Path, PathBuf},
};

use e2e::{
    corpus::{Corpus, TOLERANCE, distance},
    fixtures::{model, replace_model},
    home::Home,
    server::Server,
};
use serde_json::json;

/// Copies the tiny model `content` and moves its model file to `file`.
fn model_at(home: &Home, content: &str, name: &str, file: &str) -> PathBuf {
    let directory = home.models().join(name);
    replace_model(&model(&format!("tiny/{content}")), &directory);
    put(&directory.join("model.onnx"), &directory.join(file));
    if file != "model.onnx" {
        fs::remove_file(directory.join("model.onnx")).expect("the model file can be removed");
    }
    directory
}

/// Copies a file, creating the folder.
fn put(from: &Path, to: &Path) {
    if from != to {
        fs::create_dir_all(to.parent().expect("a folder")).expect("the folder can be created");
        fs::copy(from, to).expect("the file can be copied");
    }
}

/// Returns a source with parameters.
fn with(directory: &Path, parameters: &str) -> PathBuf {
    format!("{}?{parameters}", directory.display()).into()
}

/// Asserts that the model serves this content of the tiny models.
async fn serves(server: &Server, content: &str) {
    let corpus = Corpus::tiny();
    let body = json!({"inputs": corpus.texts[2]});
    let response = server.client().await.post("/embed", &body).await;
    let embedding = response.expect("an answer").embeddings().remove(0);
    let off = distance(&corpus.contents[content][2], &embedding);
    assert!(off < TOLERANCE, "{content}: difference {off}");
}
