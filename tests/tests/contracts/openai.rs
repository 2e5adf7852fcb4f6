//! OpenAI's `/v1/embeddings` and `/v1/models`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use e2e::{
    client::{Client, Response},
    corpus::Corpus,
    fixtures::{model, reference},
};
use hyper::Method;
use serde_json::{Value, json};

use crate::{TEXT, TEXT_INDEX, ask, assert_close, numbers, post, refused, serve, unit};

/// Returns the embeddings of an answer, in order.
fn embeddings(answer: &Value) -> Vec<Vec<f32>> {
    let data = answer["data"].as_array().unwrap_or_else(|| panic!("no data: {answer}"));
    let items = data.iter().enumerate();
    let one = |(index, item): (usize, &Value)| {
        assert_eq!((&item["object"], &item["index"]), (&json!("embedding"), &json!(index)));
        numbers(&item["embedding"])
    };
    items.map(one).collect()
}

/// Checks that an answer is an error in OpenAI's shape, and returns it.
#[track_caller]
fn error(response: &Response, status: u16, kind: &str) -> Value {
    assert_eq!(response.status, status, "{:.1000}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    let error = response.json()["error"].clone();
    let mut keys: Vec<&String> = error.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["code", "message", "param", "type"], "{error}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
    assert_eq!(error["type"], kind, "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_and_found_by_name() {
    let server = serve(&["a", "rerank_a", "tensor_a"]).await;
    let mut client = server.client().await;
    let list = client.get("/v1/models").await.unwrap().json();
    assert_eq!(list["object"], "list");
    let names: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(names, ["a", "rerank_a", "tensor_a"]);
    for listed in list["data"].as_array().unwrap() {
        let id = listed["id"].as_str().unwrap();
        let one = client.get(&format!("/v1/models/{id}")).await.unwrap();
        assert_eq!((one.status, &one.json()), (200, listed));
        assert_eq!(listed["object"], "model");
        assert!(listed["created"].is_u64() && listed["owned_by"].is_string(), "{listed}");
    }
    for name in ["none", "A", "a%2F..", "%00", &"n".repeat(3000)] {
        let response = client.get(&format!("/v1/models/{name}")).await.unwrap();
        let error = error(&response, 404, "invalid_request_error");
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
        assert!(error["message"].as_str().unwrap().len() < 1000, "a long name is truncated");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn base64_token_ids_and_dimensions_match_the_reference() {
    let server = serve(&["a", "plain"]).await;
    let mut client = server.client().await;
    let reference = reference();
    let texts = &reference.texts;
    let floats = ask(&mut client, "/v1/embeddings", &json!({"input": texts})).await;
    let body = json!({"input": texts, "encoding_format": "base64"});
    let base64 = ask(&mut client, "/v1/embeddings", &body).await;
    for (index, float) in embeddings(&floats).iter().enumerate() {
        assert_close(float, &reference.models["a"][index], &texts[index]);
        let text = base64["data"][index]["embedding"].as_str().expect("a string");
        let bytes: Vec<u8> = float.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(BASE64_STANDARD.decode(text).expect("base64"), bytes, "bit for bit");
    }
    assert_eq!(base64["usage"], floats["usage"]);

    let tokens = ask(&mut client, "/tokenize", &json!({"inputs": TEXT})).await;
    let ids: Vec<&Value> = tokens[0].as_array().unwrap().iter().map(|token| &token["id"]).collect();
    for input in [json!(ids), json!([ids])] {
        let answer = ask(&mut client, "/v1/embeddings", &json!({"input": input})).await;
        assert_close(&embeddings(&answer)[0], &reference.models["a"][TEXT_INDEX], "ids");
        assert_eq!(answer["usage"]["prompt_tokens"], ids.len());
    }
    let plain = &reference.models["plain"][TEXT_INDEX];
    let body = json!({"input": TEXT, "dimensions": 7});
    let cut = ask(&mut client, "/v1/embeddings", &body).await;
    assert_close(&embeddings(&cut)[0], &unit(&plain[..7]), "dimensions");
    let body = json!({"input": TEXT, "dimensions": 7, "model": "plain"});
    let cut = ask(&mut client, "/v1/embeddings", &body).await;
    assert_close(&embeddings(&cut)[0], &plain[..7], "dimensions");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_accepts_2048_inputs_and_no_more() {
    let server = serve(&["a"]).await;
    let mut client = server.client().await;
    let reference = reference();
    let indices: Vec<usize> = (0..2048).map(|index| (index * 7 + index / 12) % 12).collect();
    let texts: Vec<&str> = indices.iter().map(|&index| reference.texts[index].as_str()).collect();
    let response = post(&mut client, "/v1/embeddings", &json!({"input": texts})).await;
    assert_eq!(response.generation(), Some(1));
    let answer = response.json();
    let all = embeddings(&answer);
    assert_eq!(all.len(), texts.len());
    for (actual, &index) in all.iter().zip(&indices) {
        assert_close(actual, &reference.models["a"][index], &reference.texts[index]);
    }
    let tokens: u64 = indices.iter().map(|&index| reference.tokens[index]).sum();
    assert_eq!(answer["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));

    let body = json!({"input": vec!["a"; 2049]});
    let response = client.post("/v1/embeddings", &body).await.unwrap();
    let error = error(&response, 422, "invalid_request_error");
    assert_eq!(error["param"], "input");
    let said = error["message"].as_str().unwrap();
    assert!(said.contains("2049") && said.contains("2048"), "{said}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_inputs_share_a_generation_even_during_updates() {
    let server = serve(&["a"]).await;
    let (corpus, address) = (Corpus::tiny(), server.address());
    let indices: Vec<usize> = (0..2048).map(|index| index % 11).collect();
    let texts: Vec<String> = indices.iter().map(|&index| corpus.texts[index].clone()).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let asking = tokio::spawn(async move {
        let mut client = Client::connect(address).await.unwrap();
        let mut generations = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let response = post(&mut client, "/v1/embeddings", &json!({"input": texts})).await;
            let generation = response.generation().expect("a generation");
            let content = corpus.content(&indices, &embeddings(&response.json()));
            let expected = if generation % 2 == 1 { "a" } else { "b" };
            assert_eq!(content.as_deref(), Ok(expected), "generation {generation}");
            generations.push(generation);
        }
        generations
    });
    for turn in 0..6 {
        let from = model(if turn % 2 == 0 { "tiny/b" } else { "tiny/a" });
        server.update("a", Some(&from)).await.expect("an update");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let generations = asking.await.unwrap();
    assert!(generations.is_sorted(), "{generations:?}");
    assert!(generations.last() > Some(&1), "{generations:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_has_the_openai_shape() {
    let server = serve(&["a", "rerank_a"]).await;
    let mut client = server.client().await;
    let invalid = "invalid_request_error";
    for (body, status, kind, param) in [
        (json!({}), 400, invalid, json!(null)),
        (json!({"input": null}), 400, invalid, json!(null)),
        (json!({"input": []}), 400, invalid, json!("input")),
        (json!({"input": [1.5]}), 400, invalid, json!(null)),
        (json!({"input": "a", "encoding_format": "hex"}), 400, invalid, json!(null)),
        (json!({"input": "a", "dimensions": 0}), 422, invalid, json!("dimensions")),
        (json!({"input": "a", "dimensions": 33}), 422, invalid, json!("dimensions")),
        (json!({"input": [1, 417]}), 422, invalid, json!("input")),
        (json!({"input": vec![5; 64 * 1024 + 1]}), 422, invalid, json!("input")),
        (json!({"input": "a", "model": "none"}), 404, invalid, json!("model")),
        (json!({"input": "a", "model": "rerank_a"}), 424, "server_error", json!(null)),
    ] {
        let response = client.post("/v1/embeddings", &body).await.unwrap();
        let error = error(&response, status, kind);
        assert_eq!(error["param"], param, "{body:.100}: {error}");
    }
    for (method, path, status) in [
        (Method::POST, "/v1/completions", 404),
        (Method::GET, "/v1/embeddings", 405),
        (Method::DELETE, "/v1/models/a", 405),
    ] {
        let response = client.send(method, path, "{}".into()).await.unwrap();
        error(&response, status, invalid);
    }
    let long = vec![b' '; 2_000_001];
    let response = client.send(Method::POST, "/v1/embeddings", long.into()).await.unwrap();
    error(&response, 413, invalid);
    let json = "application/json";
    let headers = [("content-type", json), ("content-encoding", "br")];
    let mut client = server.client().await;
    let response = client.send_with(Method::POST, "/v1/embeddings", &headers, "{}".into()).await;
    error(&response.unwrap(), 415, invalid);
    let unknown = json!({"input": "a", "model": "b"});
    let said = refused(&mut client, "/v1/embeddings", &unknown, 404).await;
    assert!(said.contains("a, rerank_a"), "the error lists the served models: {said}");
    server.stop().await;
}
