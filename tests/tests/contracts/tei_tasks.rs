//! All tasks on the routes of text-embeddings-inference: `POST /`, `/info`, response headers,
//! limits, and calls that do not match the model's task.

use e2e::{fixtures::model, server::Server};
use serde_json::{Value, json};

use crate::{Ranking, TEXT, TEXT_INDEX, assert_close, numbers, post, post_ok, refused, serve};

const MODELS: [&str; 4] = ["a", "classify_a", "rerank_a", "tensor_a"];

#[tokio::test(flavor = "multi_thread")]
async fn the_root_route_performs_the_task_of_the_model() {
    let server = serve(&MODELS).await;
    let mut client = server.client().await;
    let ranking = Ranking::for_model("rerank_a");
    let similarity = json!({"inputs": {"source_sentence": "a", "sentences": ["a", TEXT]}});
    for (model, path, body) in [
        ("a", "/embed", json!({"inputs": [TEXT, "a"]})),
        ("a", "/embed", json!({"inputs": TEXT, "dimensions": 4})),
        ("a", "/similarity", similarity),
        ("classify_a", "/predict", json!({"inputs": [TEXT, "a"]})),
        ("rerank_a", "/rerank", json!({"query": ranking.query, "texts": ranking.texts})),
        ("rerank_a", "/rerank", json!({"query": ranking.query, "documents": ranking.texts})),
    ] {
        let mut body = body.clone();
        body["model"] = model.into();
        let (named, root) =
            (post_ok(&mut client, path, &body).await, post_ok(&mut client, "/", &body).await);
        assert_eq!(named, root, "{path}");
    }
    let unnamed = post(&mut client, "/", &json!({"inputs": TEXT})).await.embeddings();
    let expected = &e2e::fixtures::reference().models["a"][TEXT_INDEX];
    assert_close(&unnamed[0], expected, "the first model answers");
    let message =
        refused(&mut client, "/", &json!({"inputs": "a", "model": "tensor_a"}), 424).await;
    assert!(message.contains("tensor"), "{message}");
    refused(&mut client, "/", &json!({"inputs": "a", "model": "none"}), 404).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_another_task_is_424_and_names_both_tasks() {
    let server = serve(&MODELS).await;
    let mut client = server.client().await;
    let (text, query) = (json!({"inputs": "a"}), json!({"query": "a", "texts": ["a"]}));
    let documents = json!({"query": "a", "documents": ["a"]});
    let similarity = json!({"inputs": {"source_sentence": "a", "sentences": ["a"]}});
    let texts = &["embed", "classify", "rerank"][..];
    let routes = [
        ("/embed", &text, &["embed"][..]),
        ("/embed_all", &text, &["embed"]),
        ("/similarity", &similarity, &["embed"]),
        ("/predict", &text, &["classify", "rerank"]),
        ("/rerank", &query, &["rerank"]),
        ("/rerank", &documents, &["rerank"]),
        ("/tokenize", &text, texts),
        ("/decode", &json!({"ids": [5]}), texts),
        ("/v1/embeddings", &json!({"input": "a"}), &["embed"]),
        ("/v1/rerank", &documents, &["rerank"]),
        ("/v2/rerank", &documents, &["rerank"]),
        ("/v1/embed", &json!({"texts": ["a"]}), &["embed"]),
        ("/v2/embed", &json!({"texts": ["a"]}), &["embed"]),
    ];
    for (path, body, wanted) in routes {
        for name in MODELS {
            let task = if name == "a" { "embed" } else { &name[..name.len() - 2] };
            let mut body = body.clone();
            body["model"] = name.into();
            if wanted.contains(&task) {
                post_ok(&mut client, path, &body).await;
                continue;
            }
            let message = refused(&mut client, path, &body, 424).await;
            assert!(message.contains(name) && message.contains(task), "{path} {name}: {message}");
            assert!(
                wanted.iter().all(|wanted| message.contains(wanted)),
                "{path} {name}: {message}"
            );
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn response_headers_report_sizes_and_times() {
    let server = serve(&MODELS).await;
    let mut client = server.client().await;
    for (path, body, characters, tokens) in [
        ("/embed", json!({"inputs": "naïve café"}), 10, 2..20),
        ("/embed_all", json!({"inputs": ["", "a"]}), 1, 5..6),
        ("/predict", json!({"inputs": TEXT, "model": "classify_a"}), 17, 6..7),
        ("/rerank", json!({"query": "a", "texts": ["a", "b"], "model": "rerank_a"}), 4, 10..11),
    ] {
        let response = post(&mut client, path, &body).await;
        let header = |name: &str| {
            let value = response.header(name).unwrap_or_else(|| panic!("{path} has no {name}"));
            value.parse::<u64>().unwrap_or_else(|_| panic!("{path} {name}: {value}"))
        };
        assert_eq!(response.header("x-compute-type"), Some("cpu"));
        assert_eq!(header("x-compute-characters"), characters, "{path}");
        assert!(tokens.contains(&header("x-compute-tokens")), "{path}");
        let parts = ["x-queue-time", "x-tokenization-time", "x-inference-time"].map(header);
        assert!(parts.iter().all(|&part| part <= header("x-total-time")), "{path}: {parts:?}");
        assert!(header("x-compute-time") <= header("x-total-time"), "{path}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn info_describes_the_task_of_each_model() {
    let server = serve(&["a", "classify_a", "rerank_a", "tensor_a", "prompts"]).await;
    let mut client = server.client().await;
    let id2label = json!({"0": "negative", "1": "neutral", "2": "positive"});
    let label2id = json!({"negative": 0, "neutral": 1, "positive": 2});
    let one = json!({"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}});
    let status = server.status().await;
    for (name, expected, prompts) in [
        ("a", json!({"embedding": {"pooling": "mean"}}), json!([])),
        (
            "classify_a",
            json!({"classifier": {"id2label": id2label, "label2id": label2id}}),
            json!([]),
        ),
        ("rerank_a", json!({"reranker": one}), json!([])),
        ("tensor_a", json!({"tensor": {}}), json!([])),
        ("prompts", json!({"embedding": {"pooling": "mean"}}), json!(["passage", "query"])),
    ] {
        let response = client.get(&format!("/info?model={name}")).await.unwrap();
        assert_eq!(response.status, 200, "{name}: {}", response.text());
        let info = response.json();
        assert_eq!(info["model_type"], expected, "{name}");
        assert_eq!(info["served_model_name"], name);
        assert_eq!(info["model_sha"], status.model(name).version, "{name}");
        assert_eq!(info["generation"], status.model(name).generation, "{name}");
        assert_eq!(info["prompts"], prompts, "{name}");
    }
    assert_eq!(client.get("/info?model=none").await.unwrap().status, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_batch_limit_follows_its_flag() {
    let builder = Server::builder()
        .model("a", &model("tiny/a"))
        .model("classify", &model("tiny/classify_a"))
        .model("rerank", &model("tiny/rerank_a"))
        .argument("--max-client-batch-size=2");
    let server = builder.start().await;
    let mut client = server.client().await;
    let similar = |texts: &[&str]| json!({"source_sentence": "a", "sentences": texts});
    let pairs = |texts: &[&str]| texts.iter().map(|text| json!([text])).collect::<Value>();
    type Body<'b> = &'b dyn Fn(&[&str]) -> Value;
    let routes: [(&str, Body<'_>); 8] = [
        ("/embed", &|texts| json!({"inputs": texts})),
        ("/", &|texts| json!({"inputs": texts})),
        ("/embed_all", &|texts| json!({"inputs": texts})),
        ("/similarity", &|texts| json!({"inputs": similar(texts)})),
        ("/tokenize", &|texts| json!({"inputs": texts})),
        ("/decode", &|texts| json!({"ids": vec![vec![5]; texts.len()]})),
        ("/predict", &|texts| json!({"inputs": pairs(texts), "model": "classify"})),
        ("/rerank", &|texts| json!({"query": "a", "texts": texts, "model": "rerank"})),
    ];
    for (path, body) in routes {
        post_ok(&mut client, path, &body(&["a", "b"])).await;
        let message = refused(&mut client, path, &body(&["a", "b", "c"]), 422).await;
        assert!(
            message.contains("batch size 3 > maximum allowed batch size 2"),
            "{path}: {message}"
        );
    }
    let info = client.get("/info").await.unwrap().json();
    assert_eq!(info["max_client_batch_size"], 2);
    let body = json!({"input": ["a", "b", "c"]});
    let answer = post_ok(&mut client, "/v1/embeddings", &body).await;
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(3), "OpenAI's limit is separate");
    let first = numbers(&answer["data"][0]["embedding"]);
    assert_close(&first, &e2e::fixtures::reference().models["a"][1], "a");
    server.stop().await;
}
