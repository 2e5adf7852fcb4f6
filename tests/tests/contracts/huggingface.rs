//! Requests of Hugging Face clients to `POST /` and their own routes. `parameters` are applied or
//! refused, never ignored.

use serde_json::{Value, json};

use crate::{assert_close, numbers, post_ok, refused, serve, sigmoid, softmax, tiny_reference};

/// A text of the classifiers' reference.
const TEXT: &str = "How BIG is london?";

/// Returns the logits of a classifier for `TEXT`.
fn logits() -> Vec<f32> {
    let answers = tiny_reference();
    let items = answers["classify"]["classify_a"].as_array().expect("a list");
    let of_text = |item: &&Value| item["text"] == TEXT && item.get("second").is_none();
    numbers(&items.iter().find(of_text).expect("the text")["logits"])
}

fn sorted(mut scores: Vec<f32>) -> Vec<f32> {
    scores.sort_by(|a, b| b.total_cmp(a));
    scores
}

fn scores(labels: &Value) -> Vec<f32> {
    let labels = labels.as_array().unwrap_or_else(|| panic!("not a list: {labels}"));
    labels.iter().map(|label| numbers(&json!([label["score"]]))[0]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn text_classification_applies_its_parameters() {
    let server = serve(&["classify_a"]).await;
    let mut client = server.client().await;
    let logits = logits();
    let functions = [
        (json!("softmax"), softmax(&logits)),
        (json!("sigmoid"), logits.iter().copied().map(sigmoid).collect()),
        (json!("none"), logits.clone()),
    ];
    for (function, expected) in functions {
        let parameters = json!({"function_to_apply": function, "top_k": 2});
        let answer =
            post_ok(&mut client, "/", &json!({"inputs": TEXT, "parameters": parameters})).await;
        assert_eq!(answer.as_array().map(Vec::len), Some(1), "one list per text");
        let expected = &sorted(expected)[..2];
        assert_close(&scores(&answer[0]), expected, &function.to_string());
    }
    let plain = post_ok(&mut client, "/", &json!({"inputs": TEXT, "parameters": {}})).await;
    assert_close(&scores(&plain), &sorted(softmax(&logits)), "as TEI answers");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feature_extraction_accepts_its_fields_as_parameters() {
    let server = serve(&["prompts", "plain"]).await;
    let mut client = server.client().await;
    for parameters in [
        json!({"prompt_name": "query", "normalize": false}),
        json!({"dimensions": 4, "truncate": true, "truncation_direction": "left"}),
        json!({"encoding_format": "float"}),
    ] {
        let mut body = json!({"inputs": [TEXT]});
        body["parameters"] = parameters.clone();
        let nested = post_ok(&mut client, "/", &body).await;
        let mut body = parameters;
        body["inputs"] = json!([TEXT]);
        assert_eq!(nested, post_ok(&mut client, "/embed", &body).await, "{body}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_parameters_are_refused_by_name() {
    let server = serve(&["a", "classify_a", "rerank_a"]).await;
    let mut client = server.client().await;
    let similarity = json!({"source_sentence": "a", "sentences": ["a"]});
    for (model, mut body) in [
        ("a", json!({"inputs": "a"})),
        ("a", json!({"inputs": similarity})),
        ("classify_a", json!({"inputs": "a"})),
        ("rerank_a", json!({"query": "a", "texts": ["a"]})),
    ] {
        body["model"] = model.into();
        body["parameters"] = json!({"max_size": 3});
        let message = refused(&mut client, "/", &body, 422).await;
        assert!(message.contains("max_size"), "{model}: {message}");
    }
    for (parameters, named) in [
        (json!({"top_k": 0}), "top_k"),
        (json!({"function_to_apply": "tanh"}), "tanh"),
        (json!({"candidate_labels": ["a"]}), "negative, neutral, positive"),
    ] {
        let status = if named == "negative, neutral, positive" { 424 } else { 422 };
        let body = json!({"inputs": "a", "model": "classify_a", "parameters": parameters});
        let message = refused(&mut client, "/", &body, status).await;
        assert!(message.contains(named), "{message}");
    }
    server.stop().await;
}
