//! `/predict` and `/rerank` of text-embeddings-inference.

use e2e::client::Client;
use serde_json::{Value, json};

use crate::{
    Ranking, assert_close, numbers, post_ok, refused, serve, sigmoid, softmax, tiny_reference,
};

const LABELS: [&str; 3] = ["negative", "neutral", "positive"];

/// Returns the scores in the order of `LABELS`. In an answer, the highest comes first.
fn scores(prediction: &Value) -> Vec<f32> {
    let entries = prediction.as_array().unwrap_or_else(|| panic!("not a list: {prediction}"));
    assert_eq!(entries.len(), LABELS.len(), "{prediction}");
    let all = numbers(&entries.iter().map(|entry| entry["score"].clone()).collect());
    assert!(all.is_sorted_by(|one, next| one >= next), "{prediction}");
    let score_of = |label: &&str| {
        let index = entries.iter().position(|entry| entry["label"] == *label);
        all[index.unwrap_or_else(|| panic!("no {label}: {prediction}"))]
    };
    LABELS.iter().map(score_of).collect()
}

/// Returns a classifier's inputs and logits from the numpy reference.
fn cases(model: &str) -> Vec<(Value, Vec<f32>)> {
    let answers = tiny_reference();
    let items = answers["classify"][model].as_array().expect("a list");
    let case = |item: &Value| match &item["second"] {
        Value::Null => (json!([item["text"]]), numbers(&item["logits"])),
        second => (json!([item["text"], second]), numbers(&item["logits"])),
    };
    items.iter().map(case).collect()
}

async fn predict(client: &mut Client, inputs: &Value, more: &Value) -> Value {
    let mut body = json!({"inputs": inputs});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    post_ok(client, "/predict", &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn predict_classifies_texts_pairs_and_batches() {
    let server = serve(&["classify_a", "classify_multi"]).await;
    let mut client = server.client().await;
    for model in ["classify_a", "classify_multi"] {
        let activated = |logits: &[f32]| match model {
            "classify_a" => softmax(logits),
            _ => logits.iter().copied().map(sigmoid).collect(),
        };
        let cases = cases(model);
        for raw in [false, true] {
            let more = json!({"model": model, "raw_scores": raw});
            let expected = |logits: &[f32]| if raw { logits.to_vec() } else { activated(logits) };
            let mut batch = Vec::new();
            for (inputs, logits) in &cases {
                let one = scores(&predict(&mut client, inputs, &more).await);
                assert_close(&one, &expected(logits), &format!("{model} {inputs} {raw}"));
                batch.push(inputs.clone());
            }
            let all = predict(&mut client, &json!(batch), &more).await;
            assert_eq!(all.as_array().expect("a list").len(), cases.len());
            for ((inputs, logits), one) in cases.iter().zip(all.as_array().expect("a list")) {
                assert_close(&scores(one), &expected(logits), &format!("{model} {inputs} {raw}"));
            }
        }
        let text = &cases[1].0[0];
        let plain = scores(&predict(&mut client, text, &json!({"model": model})).await);
        assert_close(&plain, &activated(&cases[1].1), "a bare text");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_predict_inputs_are_refused() {
    let server = serve(&["classify_a"]).await;
    let mut client = server.client().await;
    for (inputs, status) in [
        (json!([]), 400),
        (json!([[]]), 422),
        (json!(["a", "b", "c"]), 422),
        (json!([["a", "b", "c"]]), 422),
        (json!([["a"], ["b", "c", "d"]]), 422),
        (json!([["a", 1]]), 422),
        (json!(1), 422),
        (json!(null), 422),
        (json!(vec![vec!["a"; 2]; 33]), 422),
    ] {
        refused(&mut client, "/predict", &json!({"inputs": inputs}), status).await;
    }
    let pair = json!({"inputs": ["a".repeat(150_000), "a".repeat(150_000)], "truncate": false});
    refused(&mut client, "/predict", &pair, 422).await;
    let long = "word after word ".repeat(20);
    let body = json!({"inputs": long, "truncate": false});
    let message = refused(&mut client, "/predict", &body, 422).await;
    assert!(message.contains("64"), "{message}");
    assert_eq!(server.status().await.restarts(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rerank_sorts_and_answers_in_the_shape_of_the_request() {
    let server = serve(&["rerank_a", "rerank_b"]).await;
    let mut client = server.client().await;
    for model in ["rerank_a", "rerank_b"] {
        let ranking = Ranking::for_model(model);
        let sigmoids = ranking.sigmoids();
        for (raw, text) in [(false, false), (true, false), (false, true), (true, true)] {
            let body = json!({"model": model, "query": ranking.query, "texts": ranking.texts,
                "raw_scores": raw, "return_text": text});
            let ranks = post_ok(&mut client, "/rerank", &body).await;
            let ranks = ranks.as_array().expect("a list");
            let indices: Vec<usize> = ranks
                .iter()
                .map(|rank| serde_json::from_value(rank["index"].clone()).unwrap())
                .collect();
            assert_eq!(indices, ranking.order(), "{model}");
            for (rank, &index) in ranks.iter().zip(&indices) {
                let expected = if raw { ranking.logits[index] } else { sigmoids[index] };
                assert_close(&numbers(&json!([rank["score"]])), &[expected], model);
                match text {
                    true => assert_eq!(rank["text"], ranking.texts[index]),
                    false => assert!(rank.get("text").is_none(), "{rank}"),
                }
            }
        }
        let body = json!({"model": model, "query": ranking.query, "documents": ranking.texts});
        let answer = post_ok(&mut client, "/rerank", &body).await;
        let best = &answer["results"][0];
        assert_eq!(best["index"], ranking.order()[0], "Cohere's shape: {answer}");
        let score = ranking.sigmoids()[ranking.order()[0]];
        assert_close(&numbers(&json!([best["relevance_score"]])), &[score], model);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_pairs_are_truncated_or_refused() {
    let server = serve(&["rerank_a"]).await;
    let mut client = server.client().await;
    let answers = tiny_reference();
    for item in answers["truncated"]["rerank_a"].as_array().expect("a list") {
        let mut body = json!({"query": item["query"], "texts": [item["text"]], "raw_scores": true});
        let ranks = post_ok(&mut client, "/rerank", &body).await;
        let expected = numbers(&json!([item["logit"]]));
        assert_close(&numbers(&json!([ranks[0]["score"]])), &expected, &item.to_string());
        body["truncate"] = false.into();
        let message = refused(&mut client, "/rerank", &body, 422).await;
        assert!(message.contains("64"), "{message}");
    }
    for (wrong, status) in [
        (json!({"query": "a", "texts": []}), 400),
        (json!({"query": "a", "documents": []}), 400),
        (json!({"query": "a"}), 422),
        (json!({"texts": ["a"]}), 422),
        (json!({"query": "a", "texts": "a"}), 422),
        (json!({"query": ["a"], "texts": ["a"]}), 422),
        (json!({"query": "a", "texts": vec!["a"; 33]}), 422),
        (
            json!({"query": "a".repeat(150_000), "texts": ["a".repeat(150_000)], "truncate": false}),
            422,
        ),
    ] {
        refused(&mut client, "/rerank", &wrong, status).await;
    }
    server.stop().await;
}
