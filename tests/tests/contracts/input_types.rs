//! Input types of each contract, normalization, and texts above the byte limit.

use e2e::fixtures::reference;
use serde_json::{Value, json};

use crate::{
    TEXT, TEXT_INDEX, assert_close, numbers, post_ok, refused, serve, tiny_reference, unit,
};

/// Byte limit of a text.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Returns the first embedding in an answer of any contract.
fn embedding(answer: &Value) -> Vec<f32> {
    let candidates = [
        &answer[0],
        &answer["data"][0]["embedding"],
        &answer["embeddings"]["float"][0],
        &answer["outputs"][0]["data"],
    ];
    numbers(candidates.into_iter().find(|value| value.is_array()).unwrap_or(&Value::Null))
}

fn tensors(text: &str, parameters: &Value) -> Value {
    let input = json!({"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]});
    json!({"inputs": [input], "parameters": parameters})
}

#[tokio::test(flavor = "multi_thread")]
async fn input_types_select_the_query_or_document_prompt() {
    let server = serve(&["prompts"]).await;
    let mut client = server.client().await;
    let answers = tiny_reference();
    let infer = "/v2/models/prompts/infer";
    let cohere = |kind: &str| json!({"texts": [TEXT], "input_type": kind});
    let openai = |key: &str, value: &str| json!({"input": TEXT, key: value});
    for (path, body, prompt) in [
        ("/v2/embed", cohere("search_query"), "query"),
        ("/v2/embed", cohere("search_document"), "passage"),
        // The model has no such prompt, so the default applies.
        ("/v2/embed", cohere("clustering"), "passage"),
        ("/v1/embeddings", openai("task", "retrieval.query"), "query"),
        ("/v1/embeddings", openai("task", "retrieval.passage"), "passage"),
        ("/v1/embeddings", openai("task", "text-matching"), "passage"),
        ("/v1/embeddings", openai("input_type", "query"), "query"),
        ("/v1/embeddings", openai("prompt_name", "query"), "query"),
        ("/embed", json!({"inputs": TEXT, "input_type": "query"}), "query"),
        ("/embed", json!({"inputs": TEXT, "input_type": "document"}), "passage"),
        (infer, tensors(TEXT, &json!({"input_type": "query"})), "query"),
        (infer, tensors(TEXT, &json!({"prompt_name": "query"})), "query"),
    ] {
        let expected = numbers(&answers["prompts"][prompt][TEXT_INDEX]);
        let actual = embedding(&post_ok(&mut client, path, &body).await);
        assert_close(&actual, &expected, &format!("{path} {body}"));
    }
    for (path, mut body, status) in [
        ("/v2/embed", json!({"texts": ["a"], "input_type": "image"}), 422),
        ("/v1/embeddings", json!({"input": "a", "task": "poetry"}), 422),
        ("/embed", json!({"inputs": "a", "input_type": "poetry"}), 422),
    ] {
        body["model"] = "prompts".into();
        let message = refused(&mut client, path, &body, status).await;
        assert!(message.contains("passage, query"), "{message}");
    }
    let many: Value = (0..5).map(|number| (format!("s{number}"), json!(1))).collect();
    let message =
        refused(&mut client, "/embed", &json!({"inputs": "a", "switches": many}), 422).await;
    assert!(message.contains("at most 4"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tei_routes_normalize_and_others_follow_the_model() {
    let server = serve(&["plain"]).await;
    let mut client = server.client().await;
    let plain = &reference().models["plain"][TEXT_INDEX];
    let infer = "/v2/models/plain/infer";
    for (path, body, expected) in [
        ("/embed", json!({"inputs": TEXT}), unit(plain)),
        ("/embed", json!({"inputs": TEXT, "normalize": false}), plain.clone()),
        ("/embed", json!({"inputs": TEXT, "dimensions": 4}), unit(&plain[..4])),
        ("/v1/embeddings", json!({"input": TEXT}), plain.clone()),
        ("/v1/embeddings", json!({"input": TEXT, "dimensions": 4}), plain[..4].to_vec()),
        ("/v2/embed", json!({"texts": [TEXT]}), plain.clone()),
        (infer, tensors(TEXT, &json!({})), plain.clone()),
        (infer, tensors(TEXT, &json!({"normalize": true, "dimensions": 4})), unit(&plain[..4])),
    ] {
        let actual = embedding(&post_ok(&mut client, path, &body).await);
        assert_close(&actual, &expected, &format!("{path} {body}"));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_above_the_limit_are_truncated_where_allowed() {
    let server = serve(&["a", "rerank_a", "classify_a"]).await;
    let mut client = server.client().await;
    let long = |bytes: usize| format!("hello {}", "\u{e4} ".repeat(bytes / 3));
    let (most, beyond) = (long(TEXT_BYTES_MAX / 2), long(2 * TEXT_BYTES_MAX));
    type Body<'b> = &'b dyn Fn(&str) -> Value;
    let calls: [(&str, Body<'_>); 7] = [
        ("/embed", &|text| json!({"inputs": text, "model": "a"})),
        ("/v1/embeddings", &|text| json!({"input": text, "model": "a"})),
        ("/v2/embed", &|text| json!({"texts": [text], "model": "a"})),
        ("/predict", &|text| json!({"inputs": text, "model": "classify_a"})),
        ("/rerank", &|text| json!({"query": "hello", "texts": [text], "model": "rerank_a"})),
        ("/rerank", &|text| json!({"query": text, "texts": [text], "model": "rerank_a"})),
        ("/v2/models/a/infer", &|text| tensors(text, &json!({}))),
    ];
    for (path, body) in calls {
        let mut expected = post_ok(&mut client, path, &body(&most)).await;
        let mut actual = post_ok(&mut client, path, &body(&beyond)).await;
        for answer in [&mut expected, &mut actual] {
            // Cohere's answers echo the texts, which differ.
            answer.as_object_mut().map(|answer| answer.remove("texts"));
        }
        assert_eq!(actual, expected, "{path}");
    }
    let whole = json!({"inputs": beyond, "model": "a", "truncate": false});
    let message = refused(&mut client, "/embed", &whole, 422).await;
    assert!(message.contains("bytes") && message.contains("262144"), "{message}");
    server.stop().await;
}
