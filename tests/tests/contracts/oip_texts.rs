//! Text models queried over the Open Inference Protocol answer as on their own routes.

use e2e::client::Client;
use serde_json::{Value, json};

use crate::{
    Ranking, assert_close, message, numbers, post_ok, refused, serve, softmax,
    tensors::{after, bytes, floats, infer, parts, send},
    tiny_reference,
};

/// Requests the only output with inputs and outputs in JSON, then in binary.
async fn output(
    client: &mut Client,
    model: &str,
    inputs: &[(&str, Vec<&str>)],
) -> (Value, Vec<f32>) {
    let in_json: Value = inputs
        .iter()
        .map(|(name, texts)| {
            json!({"name": name, "datatype": "BYTES", "shape": [texts.len()], "data": texts})
        })
        .collect();
    let answer = post_ok(client, &infer(model), &json!({"inputs": in_json})).await;
    assert_eq!(answer["outputs"].as_array().map(Vec::len), Some(1), "{answer}");
    let output = answer["outputs"][0].clone();
    let (mut raw, mut in_raw) = (Vec::new(), Vec::new());
    for (name, texts) in inputs {
        let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
        let own = bytes(&texts);
        in_raw.push(after(name, "BYTES", &json!([texts.len()]), own.len()));
        raw.extend(own);
    }
    let body = json!({"inputs": in_raw, "parameters": {"binary_data_output": true}});
    let (json, out) = parts(&send(client, model, &body, &raw).await);
    assert_eq!(json["outputs"][0]["shape"], output["shape"]);
    let values = numbers(&output["data"]);
    assert_close(&floats(&out[0]), &values, "binary matches JSON");
    (output, values)
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_embedded_as_on_the_embed_route() {
    let server = serve(&["a", "prompts"]).await;
    let mut client = server.client().await;
    let reference = e2e::fixtures::reference();
    let texts: Vec<&str> = reference.texts.iter().map(String::as_str).collect();
    let (output, values) = output(&mut client, "a", &[("text", texts.clone())]).await;
    assert_eq!((&output["name"], &output["shape"]), (&json!("embedding"), &json!([12, 32])));
    let embedded = crate::post(&mut client, "/embed", &json!({"inputs": texts})).await.embeddings();
    for (index, row) in values.chunks(32).enumerate() {
        assert_close(row, &reference.models["a"][index], texts[index]);
        assert_close(row, &embedded[index], texts[index]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_classified_as_on_the_predict_route() {
    let server = serve(&["classify_a"]).await;
    let mut client = server.client().await;
    let answers = tiny_reference();
    let items = answers["classify"]["classify_a"].as_array().expect("a list");
    let items: Vec<&Value> = items.iter().filter(|item| item["second"].is_null()).collect();
    let texts: Vec<&str> = items.iter().filter_map(|item| item["text"].as_str()).collect();
    let rows = texts.len();
    let (output, values) = output(&mut client, "classify_a", &[("text", texts)]).await;
    assert_eq!((&output["name"], &output["shape"]), (&json!("scores"), &json!([rows, 3])));
    for (row, item) in values.chunks(3).zip(items) {
        assert_close(row, &softmax(&numbers(&item["logits"])), &item.to_string());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_scored_in_request_order_with_rerank_scores() {
    let server = serve(&["rerank_a"]).await;
    let mut client = server.client().await;
    let ranking = Ranking::for_model("rerank_a");
    let texts: Vec<&str> = ranking.texts.iter().map(String::as_str).collect();
    let inputs = [("query", vec![ranking.query.as_str()]), ("text", texts.clone())];
    let (output, values) = output(&mut client, "rerank_a", &inputs).await;
    assert_eq!((&output["name"], &output["shape"]), (&json!("score"), &json!([5])));
    assert_close(&values, &ranking.sigmoids(), "in the order of the request");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_text_tensors_are_refused_with_the_expected_names() {
    let server = serve(&["a", "rerank_a"]).await;
    let mut client = server.client().await;
    let texts = |name: &str, texts: &Value| {
        let count = texts.as_array().map_or(1, Vec::len);
        json!({"name": name, "datatype": "BYTES", "shape": [count], "data": texts})
    };
    let numbers = json!({"name": "text", "datatype": "FP32", "shape": [1], "data": [1]});
    let good = texts("text", &json!(["a"]));
    let wrong_output = json!({"inputs": [good], "outputs": [{"name": "scores"}]});
    for (model, body, expected) in [
        ("a", json!({"inputs": [numbers]}), "text of type BYTES"),
        ("a", json!({"inputs": [texts("x", &json!(["a"]))]}), "text of type BYTES"),
        ("a", json!({"inputs": [texts("text", &json!([]))]}), "1 to 2048"),
        ("a", json!({"inputs": [texts("text", &json!(vec!["a"; 2049]))]}), "at most 2048"),
        (
            "a",
            json!({"inputs": [texts("text", &json!(["a".repeat(300_000)]))], "parameters": {"truncate": false}}),
            "300000 bytes",
        ),
        ("a", wrong_output, "`scores`"),
        ("rerank_a", json!({"inputs": [good]}), "`query`"),
        ("rerank_a", json!({"inputs": [texts("query", &json!(["a"]))]}), "`text`"),
        (
            "rerank_a",
            json!({"inputs": [good, texts("query", &json!(["a", "b"]))]}),
            "`query` must have exactly one element",
        ),
    ] {
        let error = refused(&mut client, &infer(model), &body, 400).await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let twice = json!({"inputs": [good, texts("text", &json!(["b"]))]});
    let error = refused(&mut client, &infer("a"), &twice, 400).await;
    assert!(error.contains("twice"), "{error}");
    let many = json!({"inputs": [texts("text", &json!(vec!["a"; 2048]))]});
    let answer = post_ok(&mut client, &infer("a"), &many).await;
    assert_eq!(answer["outputs"][0]["shape"], json!([2048, 32]));
    let response = client.get("/v2/models/a").await.expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    let response = client.get("/v2/models/b").await.expect("an answer");
    message(&response.json());
    server.stop().await;
}
