//! Routes of tasks that the tiny models lack, tested with small models in real-world layouts and
//! the results of their libraries. `tests/models` tests all directories.

use e2e::{fixtures::workspace, server::Server};
use serde_json::{Value, json};

use crate::{assert_close, numbers, post_ok, refused};

/// Returns the expected results of a model's library.
fn expected(model: &str) -> Value {
    let path = workspace().join("tests/models").join(model).join("expected.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

async fn serve(models: &[&str]) -> Server {
    let add = |builder: e2e::launch::Builder, name: &&str| {
        builder.model(name, &workspace().join("tests/models").join(name))
    };
    models.iter().fold(Server::builder(), add).start().await
}

fn texts(model: &str) -> Vec<String> {
    serde_json::from_value(expected(model)["texts"].clone()).expect("texts")
}

fn bytes(name: &str, texts: &[&str]) -> Value {
    json!({"name": name, "datatype": "BYTES", "shape": [texts.len()], "data": texts})
}

#[tokio::test(flavor = "multi_thread")]
async fn sparse_embeddings_are_entries_or_vocabulary_rows() {
    let server = serve(&["splade"]).await;
    let mut client = server.client().await;
    let texts = texts("splade");
    let text = texts[0].as_str();
    let answer = post_ok(&mut client, "/embed_sparse", &json!({"inputs": text})).await;
    let entries = answer[0].as_array().expect("entries");
    assert!(!entries.is_empty());
    let indexes: Vec<u64> =
        entries.iter().map(|entry| entry["index"].as_u64().expect("a token")).collect();
    assert!(indexes.is_sorted(), "{indexes:?}");
    assert_eq!(post_ok(&mut client, "/", &json!({"inputs": [text]})).await, answer);
    let body = json!({"inputs": [bytes("text", &[text])]});
    let tensors = post_ok(&mut client, "/v2/models/splade/infer", &body).await;
    let row = numbers(&tensors["outputs"][0]["data"]);
    let weights: f32 = entries.iter().map(|entry| numbers(&json!([entry["value"]]))[0]).sum();
    assert_close(&[row.iter().sum::<f32>()], &[weights], "the same weights");
    for entry in entries {
        let index = usize::try_from(entry["index"].as_u64().unwrap()).unwrap();
        assert_eq!(row[index], numbers(&json!([entry["value"]]))[0]);
    }
    let message = refused(&mut client, "/v1/embeddings", &json!({"input": "a"}), 424).await;
    assert!(message.contains("/embed_sparse"), "{message}");
    let info = client.get("/info").await.unwrap().json();
    assert_eq!(info["model_type"], json!({"embedding": {"pooling": "splade"}}));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn token_embeddings_are_lists_or_padded_rows() {
    let server = serve(&["colbert"]).await;
    let mut client = server.client().await;
    let all = texts("colbert");
    let pair = [all[0].as_str(), all[1].as_str()];
    let body = |kind: &str| json!({"inputs": pair, "input_type": kind});
    let documents = post_ok(&mut client, "/embed_all", &body("document")).await;
    let queries = post_ok(&mut client, "/embed_all", &body("query")).await;
    assert_ne!(documents, queries, "queries and documents differ");
    let named = json!({"inputs": pair, "prompt_name": "query"});
    assert_eq!(post_ok(&mut client, "/embed_all", &named).await, queries);
    let request =
        json!({"inputs": [bytes("text", &pair)], "parameters": {"input_type": "document"}});
    let answer = post_ok(&mut client, "/v2/models/colbert/infer", &request).await;
    let (rows, lengths) = (&answer["outputs"][0], &answer["outputs"][1]);
    let counts: Vec<usize> =
        documents.as_array().unwrap().iter().map(|text| text.as_array().unwrap().len()).collect();
    assert_eq!(lengths["data"], json!(counts));
    let shape: Vec<usize> = serde_json::from_value(rows["shape"].clone()).unwrap();
    assert_eq!(shape[..2], [2, *counts.iter().max().unwrap()]);
    let data = numbers(&rows["data"]);
    for (text, count) in counts.iter().enumerate() {
        let begin = text * shape[1] * shape[2];
        let row = &data[begin..begin + count * shape[2]];
        let vectors: Vec<Vec<f32>> = serde_json::from_value(documents[text].clone()).unwrap();
        assert_close(row, &vectors.concat(), "the same vectors");
        let padding = &data[begin + count * shape[2]..begin + shape[1] * shape[2]];
        assert!(padding.iter().all(|number| *number == 0.0));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entities_follow_the_strategy_and_the_ignored_labels() {
    let server = serve(&["token-classifier"]).await;
    let mut client = server.client().await;
    let text = &texts("token-classifier")[0];
    let with = |parameters: Value| json!({"inputs": text, "parameters": parameters});
    let groups = post_ok(&mut client, "/", &json!({"inputs": text})).await;
    let simple = with(json!({"aggregation_strategy": "simple", "ignore_labels": ["O"]}));
    assert_eq!(post_ok(&mut client, "/token_classification", &simple).await, groups);
    let none = with(json!({"aggregation_strategy": "none", "ignore_labels": []}));
    let tokens = post_ok(&mut client, "/", &none).await;
    let tokens = tokens.as_array().expect("tokens");
    assert!(!tokens.is_empty());
    assert!(tokens.iter().all(|token| token["entity"].is_string() && token["index"].is_u64()));
    let batch = post_ok(&mut client, "/", &json!({"inputs": [text, text]})).await;
    assert_eq!(batch, json!([groups, groups]));
    let message = refused(&mut client, "/", &with(json!({"stride": 8})), 422).await;
    assert!(message.contains("stride"), "{message}");
    let message = refused(&mut client, "/predict", &json!({"inputs": "a"}), 424).await;
    assert!(message.contains("POST / or /token_classification"), "{message}");
    let body =
        json!({"inputs": [bytes("text", &[text])], "parameters": {"aggregation_strategy": "none"}});
    let tensors = post_ok(&mut client, "/v2/models/token-classifier/infer", &body).await;
    let list = tensors["outputs"][0]["data"][0].as_str().expect("JSON in BYTES");
    let list: Vec<Value> = serde_json::from_str(list).expect("a list");
    assert_eq!(list.len(), tokens.len());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn candidate_labels_are_scored_by_entailment() {
    let server = serve(&["zero-shot-nli"]).await;
    let mut client = server.client().await;
    let text = &texts("zero-shot-nli")[0];
    let labels = ["travel", "cooking", "law"];
    let body = |parameters: Value| json!({"inputs": text, "parameters": parameters});
    let one = post_ok(&mut client, "/", &body(json!({"candidate_labels": labels}))).await;
    let scores: Vec<f32> = serde_json::from_value(
        one.as_array().unwrap().iter().map(|label| label["score"].clone()).collect(),
    )
    .unwrap();
    assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{scores:?}");
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let joined = body(json!({"candidate_labels": "travel, cooking,law", "multi_label": false}));
    assert_eq!(post_ok(&mut client, "/zero_shot_classification", &joined).await, one);
    let template = body(json!({"candidate_labels": labels, "hypothesis_template": "none"}));
    let message = refused(&mut client, "/", &template, 422).await;
    assert!(message.contains("hypothesis_template"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_regression_returns_the_raw_number() {
    let server = serve(&["classifier-regression"]).await;
    let mut client = server.client().await;
    let text = &texts("classifier-regression")[0];
    let scored = post_ok(&mut client, "/predict", &json!({"inputs": text})).await;
    let raw = post_ok(&mut client, "/predict", &json!({"inputs": text, "raw_scores": true})).await;
    assert_eq!(scored, raw);
    let logits = &expected("classifier-regression")["logits"][0];
    let first = if logits.is_array() { &logits[0] } else { logits };
    let close = [&scored[0]["score"], first].map(|score| numbers(&json!([score]))[0]);
    assert!((close[0] - close[1]).abs() < 1e-4, "{close:?}");
    server.stop().await;
}

/// Returns the first embedding in an answer of any contract.
fn embedding(answer: &Value) -> Vec<f32> {
    let candidates =
        [&answer["data"][0]["embedding"], &answer["embeddings"]["float"][0], &answer[0]];
    numbers(candidates.into_iter().find(|value| value.is_array()).unwrap_or(&Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_selects_the_adapter_and_its_prompt() {
    let server = serve(&["jina-v3-like"]).await;
    let mut client = server.client().await;
    let expected = expected("jina-v3-like");
    let text = &texts("jina-v3-like")[0];
    let openai = |task: &str| json!({"input": text, "task": task});
    let cohere = |kind: &str| json!({"texts": [text], "input_type": kind});
    let switched = json!({"inputs": text, "switches": {"task_id": "separation"}});
    for (path, body, task) in [
        ("/v1/embeddings", openai("retrieval.query"), "retrieval.query"),
        ("/v1/embeddings", openai("retrieval.passage"), "retrieval.passage"),
        ("/v1/embeddings", openai("text-matching"), "text-matching"),
        ("/v1/embeddings", openai("separation"), "separation"),
        ("/v1/embeddings", openai("classification"), "classification"),
        ("/v2/embed", cohere("search_query"), "retrieval.query"),
        ("/v2/embed", cohere("search_document"), "retrieval.passage"),
        ("/v2/embed", cohere("clustering"), "separation"),
        ("/embed", switched, "separation"),
        ("/embed", json!({"inputs": text, "prompt_name": "retrieval.query"}), "retrieval.query"),
    ] {
        let numpy = numbers(&expected["embeddings_by_task"][task][0]);
        let actual = embedding(&post_ok(&mut client, path, &body).await);
        assert_close(&actual, &numpy, &format!("{path} {task}"));
    }
    let body = json!({"input": text, "switches": {"task_id": "poetry"}});
    let message = refused(&mut client, "/v1/embeddings", &body, 422).await;
    assert!(message.contains("retrieval.query"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_reported_wherever_a_model_is_described() {
    let server = serve(&["jina-v3-like"]).await;
    let mut client = server.client().await;
    let info = client.get("/info").await.unwrap().json();
    let [guess, ..] = &info["guesses"].as_array().expect("a list")[..] else { panic!("{info}") };
    let status = server.status().await;
    let details = status.model("jina-v3-like").details.as_ref().expect("the model is loaded");
    assert_eq!(json!(details.guesses), info["guesses"]);
    assert_eq!(info["switches"][0]["name"], "task_id");
    assert!(!details.file.is_empty() && !details.inputs.is_empty(), "{details:?}");
    let metadata = client.get("/v2/models/jina-v3-like").await.unwrap().json();
    let guesses = metadata["properties"]["guesses"].as_str().expect("a property");
    assert!(guesses.contains(guess["key"].as_str().unwrap()), "{guesses}");
    let log = server.stderr();
    let line = log.lines().find(|line| line.contains("guessed")).expect("a line in the log");
    assert!(line.contains("WARN") && line.contains("onnxd.toml"), "{line}");
    server.stop().await;
}
