//! Forms of requests that mean the same, and those that are refused: hosts, names of models, methods.

use std::{net::SocketAddr, time::Duration};

use e2e::{client::exchange, exposition::Exposition, fixtures::model, server::Server};
use serde_json::json;

use crate::{connection::once, logged};

async fn status(address: SocketAddr, head: &str) -> Option<u16> {
    let bytes = format!("{head}\r\nconnection: close\r\n\r\n");
    let raw = exchange(address, bytes.as_bytes(), Duration::from_secs(20)).await;
    raw.expect("a connection").status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_name_one_host_is_refused_and_counted() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let address = server.address();
    for head in [
        "GET /health HTTP/1.1\r\nhost: a",
        "GET /health HTTP/1.1\r\nhost: [::1]:80",
        "GET http://a/health HTTP/1.1\r\nhost: b",
        "OPTIONS * HTTP/1.1\r\nhost: a",
    ] {
        assert!(matches!(status(address, head).await, Some(200 | 204)), "{head}");
    }
    let refused = [
        "GET /health HTTP/1.1",
        "GET http://a/health HTTP/1.1",
        "GET /health HTTP/1.1\r\nhost: a\r\nhost: a",
        "GET /health HTTP/1.1\r\nhost: a b",
        "GET /health HTTP/1.1\r\nhost:",
        "GET /health HTTP/1.1\r\nhost: me@a",
    ];
    for head in refused {
        assert_eq!(status(address, head).await, Some(400), "{head}");
    }
    logged(&server, "refused a malformed request", refused.len()).await;
    let metrics = once(address, ("GET", "/metrics"), &[], "").await.text();
    let metrics = Exposition::parse(&metrics).expect("metrics");
    let counted = metrics.value("onnxd_requests_malformed_total", &[("reason", "invalid")]);
    assert_eq!(counted.to_string(), refused.len().to_string());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slashes_in_a_models_name_need_no_escape() {
    let server = Server::builder().model("org/m", &model("tiny/a")).start().await;
    let address = server.address();
    for rest in ["", "/ready", "/config", "/versions/1", "/versions/1/ready", "/versions/1/config"]
    {
        let [plain, escaped] = ["org/m", "org%2Fm"].map(|name| format!("/v2/models/{name}{rest}"));
        let plain = once(address, ("GET", &plain), &[], "").await;
        let escaped = once(address, ("GET", &escaped), &[], "").await;
        assert_eq!((plain.status, plain.text()), (200, escaped.text()), "{rest}");
    }
    let body =
        json!({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]});
    for version in ["", "/versions/1"] {
        let path = format!("/v2/models/org/m{version}/infer");
        let answer = once(address, ("POST", &path), &[], body.to_string()).await;
        assert_eq!(answer.header("x-model-name"), Some("org/m"), "{}", answer.text());
    }
    let unknown = once(address, ("GET", "/v2/models/org/m/no/such"), &[], "").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("org/m/no/such"), "{}", unknown.text());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_all_body_memory_is_413_and_names_the_flag() {
    let server = Server::builder().model("m", &model("tiny/a"));
    let server = server.argument("--body-memory=1").start().await;
    let address = server.address();
    let large = json!({"inputs": vec!["a".repeat(100_000); 15]}).to_string();
    let answer = once(address, ("POST", "/embed"), &[], large).await;
    assert_eq!(answer.status, 413);
    assert!(answer.text().contains("--body-memory"), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_method_is_logged_as_other() {
    let server = Server::builder().model("m", &model("tiny/a"));
    let server = server.argument("--access-log=all").start().await;
    let answer = once(server.address(), ("BREW", "/embed"), &[], "").await;
    assert_eq!(answer.status, 405);
    logged(&server, "method=\"_OTHER\"", 1).await;
    assert!(!server.stderr().contains("BREW"));
    server.stop().await;
}
