//! Qdrant's REST interface and OpenAI's vector stores: shapes of errors, statuses and headers.
//! `tests/clients` tests the genuine clients.

use std::time::Duration;

use bytes::Bytes;
use e2e::{
    client::{Client, Response, exchange},
    server::Server,
};
use hyper::Method;
use serde_json::{Value, json};

use crate::{TEXT, serve};

async fn call(client: &mut Client, method: Method, path: &str, body: &Value) -> Response {
    let body = Bytes::from(body.to_string());
    client.send(method, path, body).await.expect("an answer")
}

/// Sends a request that must succeed, and returns its result.
#[track_caller]
fn result(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{:.1000}", response.text());
    let answer = response.json();
    assert_eq!(answer["status"], "ok", "{answer}");
    assert!(answer["time"].as_f64().is_some_and(|time| time >= 0.0), "{answer}");
    answer["result"].clone()
}

/// Checks that an answer is an error in Qdrant's shape, and returns its message.
#[track_caller]
fn error(response: &Response, status: u16) -> String {
    assert_eq!(response.status, status, "{:.1000}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    let answer = response.json();
    let mut keys: Vec<&String> = answer.as_object().expect("an object").keys().collect();
    keys.sort();
    assert_eq!(keys, ["status", "time"], "{answer}");
    crate::message(&answer["status"])
}

/// Starts a server with a collection `docs` of two points.
async fn filled() -> Server {
    let server = serve(&["a", "rerank_a"]).await;
    let mut client = server.client().await;
    let metadata = json!({"metadata": {"model": "a"}});
    result(&call(&mut client, Method::PUT, "/collections/docs", &metadata).await);
    let vector = |text: &str| json!({"text": text, "model": "a"});
    let points = json!({"points": [
        {"id": 1, "vector": vector(TEXT), "payload": {"n": 1}},
        {"id": "x", "vector": vector("another text"), "payload": {"text": "another text"}},
    ]});
    result(&call(&mut client, Method::PUT, "/collections/docs/points?wait=true", &points).await);
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_qdrants_shape_and_statuses() {
    let server = filled().await;
    let mut client = server.client().await;
    let docs = "/collections/docs";
    let query = |query: Value| json!({ "query": query });
    for (method, path, body, status, words) in [
        (Method::PUT, "/collections/docs", json!({}), 409, "docs"),
        (Method::PUT, "/collections/a%2Fb", json!({}), 400, "name"),
        (Method::PUT, "/collections/new", json!({"unknown": 1}), 400, "unknown"),
        (Method::PUT, "/collections/new", json!({"metadata": {"model": "none"}}), 404, "none"),
        (Method::GET, "/collections/none", json!(null), 404, "create it first"),
        (Method::DELETE, "/collections/docs/points", json!(null), 405, "DELETE"),
        (Method::POST, "/collections/docs/points/facet", json!({}), 405, "POST"),
        (Method::GET, "/collections/docs/points/3", json!(null), 404, "`3`"),
        (Method::POST, "/collections/none/points/query", query(json!([1.0])), 404, "none"),
        (Method::POST, "/collections/docs/points/query", query(json!([1.0])), 409, "send the text"),
        (Method::POST, "/collections/docs/points/query", query(json!(3)), 404, "does not exist"),
        (Method::POST, "/collections/docs/points/query", query(json!({"text": 1})), 400, "text"),
        (Method::POST, "/collections/docs/points/query", json!({"limit": "x"}), 400, "invalid"),
        (
            Method::POST,
            "/collections/docs/points/query/batch",
            json!({"searches": []}),
            400,
            "empty",
        ),
        (Method::POST, "/collections/docs/points/delete", json!({}), 400, "`points`"),
        (
            Method::POST,
            "/collections/docs/points/payload",
            json!({"payload": {}, "points": [1], "key": "a"}),
            400,
            "`key`",
        ),
        (
            Method::POST,
            "/collections/docs/points/payload",
            json!({"payload": {"text": "other"}, "points": ["x"]}),
            400,
            "upsert the document",
        ),
        (
            Method::POST,
            "/collections/aliases",
            json!({"actions": [{"create_alias": {"collection_name": "none", "alias_name": "y"}}]}),
            404,
            "none",
        ),
    ] {
        let response = call(&mut client, method.clone(), path, &body).await;
        let message = error(&response, status);
        assert!(message.contains(words), "{method} {path} {body}: {message}");
    }
    let cut = client.send(Method::POST, &format!("{docs}/points/query"), "{".into()).await;
    error(&cut.unwrap(), 400);
    // A body that is too large is refused when it is announced.
    let head = format!(
        "PUT {docs}/points HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        (8 << 20) + 1
    );
    let raw = exchange(server.address(), head.as_bytes(), Duration::from_secs(10)).await.unwrap();
    assert_eq!(raw.status(), Some(413), "{}", raw.body());
    let refused: Value = serde_json::from_str(&raw.body()).expect("JSON");
    crate::message(&refused["status"]);
    // Nothing of this changed the collection.
    let count = call(&mut client, Method::POST, &format!("{docs}/points/count"), &json!({})).await;
    assert_eq!(result(&count), json!({"count": 2}));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_a_limit_are_refused_with_the_limit() {
    let server = filled().await;
    let mut client = server.client().await;
    let query = json!({"query": {"text": "x"}, "limit": 1});
    let point = |id| json!({"id": id, "vector": {"text": "x"}});
    let ids: Vec<u64> = (0..4097).collect();
    for (method, path, body, limit) in [
        (Method::POST, "points/query/batch", json!({"searches": vec![query; 65]}), "64"),
        (Method::POST, "points/query", json!({"query": {"text": "x"}, "limit": 10_001}), "10000"),
        (Method::POST, "points/query", json!({"offset": 10_000}), "10000"),
        (Method::POST, "points/scroll", json!({"limit": 10_001}), "10000"),
        (
            Method::PUT,
            "points",
            json!({"points": (0..4097).map(point).collect::<Vec<_>>()}),
            "4096",
        ),
        (Method::POST, "points", json!({"ids": ids}), "4096"),
        (Method::POST, "points/delete", json!({"points": ids}), "4096"),
        (Method::POST, "points/payload/clear", json!({"points": ids}), "4096"),
    ] {
        let response = call(&mut client, method, &format!("/collections/docs/{path}"), &body).await;
        let message = error(&response, 400);
        assert!(message.contains(limit), "{path}: {message}");
    }
    let body = json!({"query": vec!["x"; 33]});
    let response = client.post("/v1/vector_stores/docs/search", &body).await.unwrap();
    assert_eq!(response.status, 422, "{}", response.text());
    assert!(crate::message(&response.json()).contains("32"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_another_length_are_refused() {
    let server = filled().await;
    let mut client = server.client().await;
    let embedding = json!({"model": "a", "input": TEXT});
    let embedded = client.post("/v1/embeddings", &embedding).await.unwrap();
    let version = embedded.version().expect("a version").to_owned();
    let vector = embedded.json()["data"][0]["embedding"].as_array().expect("a vector").clone();
    let short = &vector[1..];
    let point = json!({"id": 7, "vector": short, "payload": {"text": TEXT}});
    for (method, path, body) in [
        (Method::POST, "points/query", json!({"query": short})),
        (Method::PUT, "points", json!({"points": [point]})),
    ] {
        let path = format!("/collections/docs/{path}");
        let headers = [("x-model-version", version.as_str())];
        let body = Bytes::from(body.to_string());
        let response = client.send_with(method, &path, &headers, body).await.unwrap();
        let message = error(&response, 400);
        for length in [vector.len(), short.len()] {
            assert!(message.contains(&length.to_string()), "{path}: {message}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_name_the_version_and_the_times() {
    let server = filled().await;
    let mut client = server.client().await;
    let embedding = json!({"model": "a", "input": TEXT});
    let embedded = client.post("/v1/embeddings", &embedding).await.unwrap();
    let vector = embedded.json()["data"][0]["embedding"].clone();
    for query in [json!({"text": TEXT}), json!({"nearest": {"text": TEXT, "model": "a"}}), vector] {
        let body = json!({"query": query, "limit": 1, "with_payload": true});
        let response = client.post("/collections/docs/points/query", &body).await.unwrap();
        let found = result(&response);
        assert_eq!(
            (&found["points"][0]["id"], &found["points"][0]["payload"]),
            (&json!(1), &json!({"n": 1}))
        );
        assert!(found["points"][0]["score"].as_f64().unwrap() > 0.9999, "{found}");
        assert_eq!(response.generation(), Some(1));
        assert_eq!(response.version(), embedded.version());
        let times = response.header("server-timing").unwrap_or_default();
        assert!(times.contains("embed;dur=") && times.contains("search;dur="), "{times}");
    }
    let root = client.get("/").await.unwrap().json();
    assert!(root["version"].as_str().is_some_and(|version| version.starts_with("1.")), "{root}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vector_stores_have_openais_errors() {
    let server = filled().await;
    let mut client = server.client().await;
    for (path, body, status) in [
        ("/v1/vector_stores/none/search", json!({"query": "x"}), 404),
        ("/v1/vector_stores/docs/search", json!({}), 400),
        ("/v1/vector_stores/docs/search", json!({"query": "x", "max_num_results": 0}), 422),
        ("/v1/vector_stores/docs/search", json!({"query": "x", "rewrite_query": true}), 422),
    ] {
        let response = client.post(path, &body).await.unwrap();
        assert_eq!(response.status, status, "{path} {body}: {}", response.text());
        assert_eq!(response.json()["error"]["type"], "invalid_request_error");
        crate::message(&response.json());
    }
    let body = json!({"query": TEXT, "max_num_results": 1});
    let response = client.post("/v1/vector_stores/docs/search", &body).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    let page = response.json();
    assert_eq!(page["object"], "vector_store.search_results.page");
    assert_eq!(page["data"][0]["file_id"], "1");
    assert_eq!(page["data"][0]["content"], json!([{"type": "text", "text": TEXT}]));
    assert_eq!(response.generation(), Some(1));
    server.stop().await;
}
