//! The HTTP contracts: answers, limits, and responses to invalid or hostile requests. Answers are
//! compared with a numpy reference. `tests/clients` tests unmodified clients.

mod batching;
mod bodies;
mod cohere;
mod encoders;
mod fairness;
mod huggingface;
mod input_types;
mod limits;
mod oip;
mod oip_binary;
mod oip_compressed;
mod oip_hostile;
mod oip_texts;
mod openai;
mod qdrant;
mod tei;
mod tei_scores;
mod tei_tasks;
mod tei_tokens;
mod tensors;

use e2e::{
    client::{Client, Response},
    corpus::{TOLERANCE, distance},
    fixtures::model,
    server::Server,
};
use serde_json::Value;

/// A text of the reference with few tokens.
const TEXT: &str = "How big is London";
/// Its index there.
const TEXT_INDEX: usize = 2;

/// Starts a server of tiny models, each under its own name.
async fn serve(models: &[&str]) -> Server {
    let add = |builder: e2e::launch::Builder, name: &&str| {
        builder.model(name, &model(&format!("tiny/{name}")))
    };
    models.iter().fold(Server::builder(), add).start().await
}

/// Sends a request that must succeed.
async fn post(client: &mut Client, path: &str, body: &Value) -> Response {
    let response = client.post(path, body).await.expect("an answer");
    assert_eq!(response.status, 200, "{path} {body:.300}: {:.1000}", response.text());
    response
}

/// Sends a request that must succeed and returns the body.
async fn post_ok(client: &mut Client, path: &str, body: &Value) -> Value {
    post(client, path, body).await.json()
}

/// Sends a request that must fail and returns the error message, in any contract's shape.
async fn refused(client: &mut Client, path: &str, body: &Value, status: u16) -> String {
    let response = client.post(path, body).await.expect("an answer");
    assert_eq!(response.status, status, "{path} {body:.300}: {:.1000}", response.text());
    message(&response.json())
}

/// Returns an error's message, in any contract's shape.
fn message(error: &Value) -> String {
    let candidates = [&error["error"], &error["error"]["message"], &error["message"]];
    let text = candidates.into_iter().find_map(Value::as_str).unwrap_or_default();
    assert!(!text.is_empty(), "no message: {error}");
    for inside in ["onnxd-worker", "/tmp/", ".rs:", "panicked"] {
        assert!(!text.contains(inside), "{text}");
    }
    text.to_owned()
}

/// Returns the numpy reference of all tiny models.
fn tiny_reference() -> Value {
    let text = std::fs::read(model("tiny").join("reference.json")).expect("a reference");
    serde_json::from_slice(&text).expect("JSON")
}

/// Parses a list of numbers.
fn numbers(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

#[track_caller]
fn assert_close(actual: &[f32], expected: &[f32], what: &str) {
    let difference = distance(actual, expected);
    assert!(
        difference <= TOLERANCE,
        "{what}: difference {difference}: {actual:?}, expected {expected:?}"
    );
}

/// Returns a field of `/proc/PID/status`, in bytes.
fn memory(server: &Server, name: &str) -> u64 {
    e2e::processes::status_bytes(server.pid(), name)
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit.exp() / sum).collect()
}

/// Normalizes a vector to length 1.
fn unit(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|component| component * component).sum::<f32>().sqrt();
    vector.iter().map(|component| component / length).collect()
}

/// A query, texts and their logits, from a reranker's reference.
struct Ranking {
    query: String,
    texts: Vec<String>,
    logits: Vec<f32>,
}

impl Ranking {
    fn for_model(model: &str) -> Self {
        let answers = tiny_reference();
        let items = answers["rerank"][model].as_array().expect("a list");
        let of_text = items.iter().filter(|item| item["query"] == TEXT);
        let text = |item: &Value| item["text"].as_str().expect("a text").to_owned();
        let logit = |item: &Value| numbers(&serde_json::json!([item["logit"]]))[0];
        Self {
            query: TEXT.into(),
            texts: of_text.clone().map(text).collect(),
            logits: of_text.map(logit).collect(),
        }
    }

    /// Returns the indices of the texts, the best first.
    fn order(&self) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..self.logits.len()).collect();
        indices.sort_by(|&a, &b| self.logits[b].total_cmp(&self.logits[a]));
        indices
    }

    fn sigmoids(&self) -> Vec<f32> {
        self.logits.iter().copied().map(sigmoid).collect()
    }
}
