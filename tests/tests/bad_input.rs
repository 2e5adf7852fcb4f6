//! Invalid requests get the right error and disturb nothing else.

use std::time::Duration;

use bytes::Bytes;
use e2e::{
    client::{Client, exchange},
    fixtures::model,
    server::Server,
};
use hyper::Method;
use serde_json::{Value, json};

const TEXT_BYTES_MAX: usize = 256 * 1024;
const TIMEOUT: Duration = Duration::from_secs(20);

struct Case {
    what: &'static str,
    method: Method,
    path: &'static str,
    body: Bytes,
    status: u16,
    /// TEI's `error_type`, where the contract defines it.
    error_type: Option<&'static str>,
}

fn post(what: &'static str, path: &'static str, body: impl Into<Bytes>, status: u16) -> Case {
    Case { what, method: Method::POST, path, body: body.into(), status, error_type: None }
}

fn tei(what: &'static str, body: &Value, status: u16, error_type: &'static str) -> Case {
    let case = post(what, "/embed", body.to_string(), status);
    Case { error_type: Some(error_type), ..case }
}

fn open_ai(what: &'static str, body: &Value, status: u16) -> Case {
    post(what, "/v1/embeddings", body.to_string(), status)
}

fn cases() -> Vec<Case> {
    let nested = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    let deep = format!(r#"{{"inputs": {nested}, "input": {nested}}}"#);
    let many = vec!["a"; 33];
    let long = "a".repeat(TEXT_BYTES_MAX + 1);
    let not_utf8 = &b"{\"inputs\": \"\xff\xfe\", \"input\": \"\xff\"}"[..];
    let mut cases = vec![
        post("not JSON", "/embed", "{\"inputs\": ", 400),
        post("not JSON", "/v1/embeddings", "{\"input\": ", 400),
        post("no body", "/embed", "", 400),
        post("no body", "/v1/embeddings", "", 400),
        post("not UTF-8", "/embed", not_utf8, 400),
        post("not UTF-8", "/v1/embeddings", not_utf8, 400),
        post("too deep", "/embed", deep.clone(), 400),
        post("too deep", "/v1/embeddings", deep, 400),
        tei("a number", &json!({"inputs": 1}), 422, "Validation"),
        tei("a list of numbers", &json!({"inputs": [1.5]}), 422, "Validation"),
        tei("null", &json!({"inputs": null}), 422, "Validation"),
        tei("missing field", &json!({"text": "a"}), 422, "Validation"),
        tei("not an object", &json!(["a"]), 422, "Validation"),
        tei("an invalid flag", &json!({"inputs": "a", "truncate": "yes"}), 422, "Validation"),
        tei("an empty list", &json!({"inputs": []}), 400, "Empty"),
        tei("too many", &json!({"inputs": many}), 422, "Validation"),
        tei("too long", &json!({"inputs": long, "truncate": false}), 422, "Validation"),
        tei("one too long", &json!({"inputs": ["a", long], "truncate": false}), 422, "Validation"),
        open_ai("a number", &json!({"input": 1}), 400),
        open_ai("missing field", &json!({"inputs": "a"}), 400),
        open_ai("not an object", &json!(["a"]), 400),
        open_ai("an unknown encoding", &json!({"input": "a", "encoding_format": "hex"}), 400),
        open_ai("an empty list", &json!({"input": []}), 400),
        open_ai("too many", &json!({"input": vec!["a"; 2049]}), 422),
        open_ai("too long", &json!({"input": vec![5; TEXT_BYTES_MAX / 4 + 1]}), 422),
        open_ai("an unknown model", &json!({"input": "a", "model": "other"}), 404),
        open_ai("an invalid name", &json!({"input": "a", "model": "../a"}), 404),
    ];
    for (path, method) in [("/embed", Method::GET), ("/v1/embeddings", Method::DELETE)] {
        cases.push(Case { method, ..post("a disallowed method", path, "", 405) });
    }
    for path in ["/none", "/v1/none", "/embed/none", "/v2/models/a/../b"] {
        cases.push(post("an unknown route", path, "{}", 404));
    }
    let unknown = json!({"inputs": "a", "model": "other"});
    cases.push(post("an unknown model", "/embed", unknown.to_string(), 404));
    cases
}

/// Asserts that the error has the shape of its contract and a message, and leaks no internals.
fn assert_shape(case: &Case, answer: &Value) {
    let what = format!("{} {}: {answer}", case.what, case.path);
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    if case.path.starts_with("/v1/") {
        let error = answer["error"].as_object().unwrap_or_else(|| panic!("{what}"));
        assert!(text(&error["message"]) && text(&error["type"]), "{what}");
        assert!(error.contains_key("param") && error.contains_key("code"), "{what}");
    } else if case.path.starts_with("/v2/") {
        assert!(text(&answer["error"]), "{what}");
        assert_eq!(answer.as_object().map(serde_json::Map::len), Some(1), "{what}");
    } else {
        assert!(text(&answer["error"]) && text(&answer["error_type"]), "{what}");
        if let Some(expected) = case.error_type {
            assert_eq!(answer["error_type"], expected, "{what}");
        }
    }
    let inside = ["onnxd-worker", "/tmp/", ".rs:", "panicked", "socketpair"];
    for secret in inside {
        assert!(!answer.to_string().contains(secret), "{what}");
    }
}

async fn assert_serves(client: &mut Client, after: &str) {
    let response = client.post("/embed", &json!({"inputs": "hello world"})).await;
    let response = response.unwrap_or_else(|error| panic!("after {after}: {error}"));
    assert_eq!(response.status, 200, "after {after}: {}", response.text());
}

async fn server() -> Server {
    Server::builder().model("a", &model("tiny/a")).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_gets_its_error_and_disturbs_no_other() {
    let server = server().await;
    for case in cases() {
        let mut client = server.client().await;
        let response = client.send(case.method.clone(), case.path, case.body.clone()).await;
        let response =
            response.unwrap_or_else(|error| panic!("{} {}: {error}", case.what, case.path));
        let Case { what, path, status, .. } = case;
        assert_eq!(response.status, status, "{what} {path}: {}", response.text());
        if status != 405 {
            assert_shape(&case, &response.json());
        }
        if !client.closing() {
            assert_serves(&mut client, what).await;
        }
        assert_serves(&mut server.client().await, what).await;
    }
    assert_eq!(server.status().await.restarts(), 0, "no worker was restarted");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_at_a_limit_are_accepted() {
    let server = server().await;
    let mut client = server.client().await;
    let nested = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let ignored = format!(r#"{{"unknown": {nested}, "inputs": "a"}}"#);
    let response = client.send(Method::POST, "/embed", ignored.into()).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    for body in [
        json!({"inputs": vec!["a"; 32]}),
        json!({"inputs": "a ".repeat(TEXT_BYTES_MAX / 2)}),
        json!({"inputs": "."}),
        json!({"inputs": "\u{0}\u{feff}\u{1f642}"}),
        json!({"inputs": "a", "unknown": "fields are ignored"}),
    ] {
        let response = client.post("/embed", &body).await.unwrap();
        assert_eq!(response.status, 200, "{:.60}: {}", body.to_string(), response.text());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_body_is_refused_before_it_is_read_completely() {
    let server = server().await;
    let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x1_0000));
    for path in ["/embed", "/v1/embeddings"] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n");
        let declared = format!("{head}content-length: 10000000000\r\n\r\n{{");
        // The last chunk never comes.
        let endless = format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunk.repeat(40));
        for (what, request) in [("declared", declared), ("endless", endless)] {
            let raw = exchange(server.address(), request.as_bytes(), TIMEOUT).await.unwrap();
            let received = String::from_utf8_lossy(&raw.received);
            assert_eq!(raw.status(), Some(413), "{what} {path}: {received}");
            assert!(raw.closed, "{what} {path}: the connection cannot be used further");
            let answer = serde_json::from_str(&raw.body()).unwrap();
            assert_shape(&post("too large", path, "", 413), &answer);
            assert_serves(&mut server.client().await, what).await;
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_refused_or_closed_in_time() {
    let server = server().await;
    let get = "GET /health HTTP/1.1\r\nhost: x\r\n";
    let huge = format!("{get}x-huge: {}\r\n\r\n", "a".repeat(1024 * 1024));
    let many: String = (0..10_000).map(|number| format!("x-{number}: a\r\n")).collect();
    let both = "POST /embed HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    for (what, request, codes) in [
        ("a huge header", huge, &[431][..]),
        ("many headers", format!("{get}{many}\r\n"), &[431][..]),
        ("not HTTP", "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), &[400][..]),
        ("an invalid version", "GET / HTTP/9.9\r\n\r\n".to_owned(), &[400, 505][..]),
        ("an invalid length", format!("{get}content-length: -1\r\n\r\n"), &[400][..]),
        ("chunked in HTTP/1.0", both.to_owned(), &[400][..]),
    ] {
        let raw = exchange(server.address(), request.as_bytes(), TIMEOUT).await.unwrap();
        assert!(raw.closed, "{what}: the connection stayed open");
        if let Some(status) = raw.status() {
            assert!(codes.contains(&status), "{what}: {status}");
        }
        assert_serves(&mut server.client().await, what).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_headers_time_out() {
    let server = server().await;
    let head = &b"POST /embed HTTP/1.1\r\nhost: x\r\nx-slow: "[..];
    let raw = exchange(server.address(), head, TIMEOUT).await.unwrap();
    assert!(raw.closed, "the connection is still open after {TIMEOUT:?}");
    assert!(matches!(raw.status(), None | Some(408)), "{:?}", raw.status());
    assert_serves(&mut server.client().await, "slow headers").await;
    server.stop().await;
}
