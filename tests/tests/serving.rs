//! Basic serving: correct embeddings in the shapes that existing clients expect.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use e2e::{
    client::{Client, Response, exchange},
    corpus::{TOLERANCE, cosine, distance, length},
    fixtures::{self, golden, model, reference},
    server::Server,
};
use serde_json::{Value, json};

const COSINE_MIN: f64 = 0.99999;

async fn post(client: &mut Client, path: &str, body: &Value) -> Response {
    let response = client.post(path, body).await.expect("an answer");
    assert_eq!(response.status, 200, "{path} {body}: {}", response.text());
    response
}

async fn embed(client: &mut Client, body: &Value) -> Vec<Vec<f32>> {
    post(client, "/embed", body).await.embeddings()
}

fn assert_close(actual: &[f32], expected: &[f32], what: &str) {
    let (difference, alike) = (distance(actual, expected), cosine(actual, expected));
    assert!(
        difference <= TOLERANCE && alike >= COSINE_MIN,
        "{what}: difference {difference}, cosine {alike}"
    );
}

/// Returns the embeddings of a `/v1/embeddings` answer, in either encoding.
fn open_ai_embeddings(answer: &Value) -> Vec<Vec<f32>> {
    assert_eq!(answer["object"], "list");
    let data = answer["data"].as_array().expect("data");
    let embedding = |(index, item): (usize, &Value)| {
        assert_eq!(item["object"], "embedding");
        assert_eq!(item["index"], index);
        match &item["embedding"] {
            Value::String(text) => {
                let bytes = BASE64_STANDARD.decode(text).expect("base64");
                let float = |four: &[u8]| f32::from_le_bytes(four.try_into().expect("4 bytes"));
                bytes.chunks(4).map(float).collect()
            }
            numbers => serde_json::from_value(numbers.clone()).expect("numbers"),
        }
    };
    data.iter().enumerate().map(embedding).collect()
}

fn assert_labelled(response: &Response, model: &str, generation: u64) {
    let header = |name| response.header(name).unwrap_or_else(|| panic!("missing {name}"));
    assert_eq!(header("x-model-name"), model);
    assert_eq!(header("x-model-generation"), generation.to_string());
    let version = header("x-model-version");
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    assert!(version.len() == 64 && version.bytes().all(hex), "{version}");
    let timing = header("server-timing");
    let phases: Vec<&str> = timing
        .split(',')
        .map(|entry| {
            let (name, duration) = entry.trim().split_once(";dur=").expect("name;dur=ms");
            assert!(duration.parse::<f64>().is_ok_and(|ms| ms >= 0.0), "{timing}");
            name
        })
        .collect();
    assert_eq!(phases, ["queue", "tokenize", "infer"], "{timing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn minilm_matches_sentence_transformers_on_both_routes() {
    let server = Server::builder().model("minilm", &model("minilm")).start().await;
    let mut client = server.client().await;
    let golden = golden();
    let texts: Vec<&str> = golden.iter().map(|item| item.text.as_str()).collect();

    for item in &golden {
        let response = post(&mut client, "/embed", &json!({"inputs": item.text})).await;
        assert_labelled(&response, "minilm", 1);
        assert_close(&response.embeddings()[0], &item.embedding, &item.text);
    }
    let together = embed(&mut client, &json!({"inputs": texts})).await;
    for format in [json!({}), json!({"encoding_format": "base64"})] {
        let mut body = json!({"model": "minilm", "input": texts});
        body.as_object_mut().unwrap().extend(format.as_object().unwrap().clone());
        let response = post(&mut client, "/v1/embeddings", &body).await;
        assert_labelled(&response, "minilm", 1);
        let answer = response.json();
        assert_eq!(answer["model"], "minilm");
        assert_eq!(answer["usage"]["prompt_tokens"], answer["usage"]["total_tokens"]);
        assert!(answer["usage"]["total_tokens"].as_u64().unwrap() > 0, "{}", answer["usage"]);
        for all in [open_ai_embeddings(&answer), together.clone()] {
            assert_eq!(all.len(), golden.len());
            for (actual, item) in all.iter().zip(&golden) {
                assert_close(actual, &item.embedding, &item.text);
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_models_share_workers_and_are_selected_by_name() {
    let names = ["a", "b", "cls", "plain", "wide", "external"];
    let mut builder = Server::builder();
    for name in names {
        builder = builder.model(name, &model(&format!("tiny/{name}")));
    }
    let server = builder.start().await;
    let mut client = server.client().await;
    let reference = reference();
    for name in names {
        // `external` has the weights of `a`, in a separate file.
        let expected = &reference.models[if name == "external" { "a" } else { name }];
        // The model `plain` does not normalize its vectors.
        let normalize = name != "plain";
        let body = json!({"inputs": reference.texts, "model": name, "normalize": normalize});
        let response = post(&mut client, "/embed", &body).await;
        assert_labelled(&response, name, 1);
        let native = response.embeddings();
        let body = json!({"input": reference.texts, "model": name});
        let answer = post(&mut client, "/v1/embeddings", &body).await.json();
        assert_eq!(answer["model"], name);
        assert_eq!(answer["usage"]["prompt_tokens"], reference.tokens.iter().sum::<u64>());
        let open_ai = open_ai_embeddings(&answer);
        for (index, text) in reference.texts.iter().enumerate() {
            for actual in [&native[index], &open_ai[index]] {
                let difference = distance(actual, &expected[index]);
                assert!(difference <= TOLERANCE, "{name} {text:?}: difference {difference}");
            }
        }
    }
    let unnamed = post(&mut client, "/embed", &json!({"inputs": "a"})).await;
    assert_labelled(&unnamed, "a", 1);

    let status = server.status().await;
    let served: Vec<&str> = status.models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(served, names);
    let versions: BTreeSet<&str> = status.models.iter().map(|m| m.version.as_str()).collect();
    assert_eq!(versions.len(), names.len(), "every content has its own version");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn normalize_and_truncate_are_applied() {
    let server = Server::builder()
        .model("a", &model("tiny/a"))
        .model("plain", &model("tiny/plain"))
        .start()
        .await;
    let mut client = server.client().await;
    let reference = reference();
    let text = &reference.texts[2];
    let (unit, plain) = (&reference.models["a"][2], &reference.models["plain"][2]);
    for (body, expected) in [
        (json!({"inputs": text, "normalize": false}), plain),
        (json!({"inputs": text, "normalize": true}), unit),
        (json!({"inputs": text}), unit),
        (json!({"inputs": text, "model": "plain", "normalize": false}), plain),
        (json!({"inputs": text, "model": "plain"}), unit),
        (json!({"inputs": text, "model": "plain", "normalize": true}), unit),
    ] {
        let actual = &embed(&mut client, &body).await[0];
        assert!(distance(actual, expected) <= TOLERANCE, "{body}");
    }
    assert!((length(plain) - 1.0).abs() > 0.1, "plain vectors must not have length 1");

    let long = "hello ".repeat(100);
    embed(&mut client, &json!({"inputs": long})).await;
    let cut = embed(&mut client, &json!({"inputs": long, "truncate": true})).await;
    let shorter = embed(&mut client, &json!({"inputs": "hello ".repeat(62)})).await;
    assert!(distance(&cut[0], &shorter[0]) <= TOLERANCE, "truncation to 64 tokens");
    let body = json!({"inputs": [text, long], "truncate": false});
    let response = client.post("/embed", &body).await.unwrap();
    assert_eq!(response.status, 422, "{}", response.text());
    let answer = response.json();
    assert_eq!(answer["error_type"], "Validation");
    let message = answer["error"].as_str().unwrap();
    assert!(message.contains("64") && message.contains("102"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn info_and_health_suit_tei_clients_and_probes() {
    let directory = model("tiny/cls");
    let server = Server::builder().model("tiny", &directory).start().await;
    let mut client = server.client().await;
    for path in ["/health", "/v2/health/live", "/v2/health/ready"] {
        let response = client.get(path).await.unwrap();
        assert_eq!(response.status, 200, "{path}: {}", response.text());
    }
    let version = server.status().await.model("tiny").version.clone();
    let info = client.get("/info").await.unwrap().json();
    for name in ["model_id", "model_dtype", "version"] {
        assert!(info[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {info}");
    }
    assert_eq!(info["served_model_name"], "tiny");
    assert_eq!(info["model_sha"], version);
    assert_eq!(info["model_type"], json!({"embedding": {"pooling": "cls"}}));
    assert_eq!(info["max_input_length"], 64);
    assert_eq!(info["max_client_batch_size"], 32);
    assert!(info["auto_truncate"].is_boolean(), "{info}");
    for name in ["max_concurrent_requests", "max_batch_tokens", "tokenization_workers"] {
        assert!(info[name].as_u64().is_some_and(|number| number > 0), "{name}: {info}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_requests() {
    let server = Server::builder().model("a", &model("tiny/a")).start().await;
    let mut client = server.client().await;
    let reference = reference();
    for round in 0..100 {
        let index = 1 + round % (reference.texts.len() - 1);
        let body = json!({"inputs": reference.texts[index]});
        let actual = embed(&mut client, &body).await;
        assert!(distance(&actual[0], &reference.models["a"][index]) <= TOLERANCE, "{body}");
        assert!(!client.closing(), "the server announced a close after {round} requests");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_may_be_chunked_or_follow_a_100_continue() {
    let server = Server::builder().model("a", &model("tiny/a")).start().await;
    let body = json!({"inputs": "How big is London"}).to_string();
    let head = "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let chunks: String =
        body.as_bytes().iter().map(|&byte| format!("1\r\n{}\r\n", char::from(byte))).collect();
    let expected = &reference().models["a"][2];
    for (what, request) in [
        ("chunked", format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")),
        (
            "expect",
            format!("{head}expect: 100-continue\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        ),
    ] {
        let raw = exchange(server.address(), request.as_bytes(), Duration::from_secs(30)).await;
        let raw = raw.unwrap();
        assert_eq!(raw.status(), Some(200), "{what}: {}", String::from_utf8_lossy(&raw.received));
        let actual: Vec<Vec<f32>> = serde_json::from_str(&raw.body()).unwrap();
        assert!(distance(&actual[0], expected) <= TOLERANCE, "{what}");
    }
    // Some clients wait for `100 Continue` before they send the body.
    let head = format!("{head}expect: 100-continue\r\ncontent-length: {}\r\n\r\n", body.len());
    let raw = exchange(server.address(), head.as_bytes(), Duration::from_secs(2)).await.unwrap();
    assert!(
        raw.received.starts_with(b"HTTP/1.1 100 "),
        "{}",
        String::from_utf8_lossy(&raw.received)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_kept_open() {
    let server = Server::builder().model("a", &model("tiny/a")).start().await;
    // Large enough that the body does not arrive together with the headers.
    let large = json!({"inputs": "hello ".repeat(40_000)});
    let mut resting = Vec::new();
    for body in [large, json!({"inputs": "a"})] {
        let mut client = server.client().await;
        embed(&mut client, &body).await;
        resting.push(client);
    }
    tokio::time::sleep(Duration::from_secs(14)).await;
    for mut client in resting {
        assert_eq!(client.get("/health").await.map(|response| response.status), Ok(200));
    }
    server.stop().await;
}

#[test]
fn fixtures_differ_far_beyond_the_tolerance() {
    let reference = reference();
    for (one, other) in [("a", "b"), ("a", "cls"), ("a", "plain")] {
        for index in 0..reference.texts.len() {
            let difference =
                distance(&reference.models[one][index], &reference.models[other][index]);
            assert!(
                difference > 100.0 * TOLERANCE,
                "{one} and {other} differ only by {difference}"
            );
        }
    }
    assert!(fixtures::golden().len() >= 16);
}
