//! Values at a limit are accepted, and larger ones get the refusal documented in `docs/limits.md`.
//! Limits that other tests cover are omitted.

use bytes::Bytes;
use e2e::{client::Client, server::Server};
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    message, post, refused, serve,
    tensors::{after, bytes, infer, send},
};

const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Requests at and beyond a limit.
struct Limit {
    what: &'static str,
    path: &'static str,
    at: Value,
    beyond: Value,
    status: u16,
}

fn texts(count: usize) -> Value {
    let data = vec!["a"; count];
    json!({"inputs": [{"name": "text", "datatype": "BYTES", "shape": [count], "data": data}]})
}

fn limits() -> Vec<Limit> {
    let long = |bytes: usize| "a ".repeat(bytes / 2) + &"a".repeat(bytes % 2);
    let embed = |text: String| json!({"inputs": text, "model": "a"});
    let cohere = |count: usize| json!({"model": "a", "texts": vec!["a"; count], "input_type": "search_query", "embedding_types": ["float"]});
    let pairs = |query: usize| {
        let documents = vec!["a".repeat(1024); 64];
        json!({"query": "a".repeat(query), "documents": documents, "model": "rerank_a"})
    };
    // 64 pairs of a query and 1,024 bytes, short enough not to be truncated.
    let query_max = (8 << 20) / 64 - 1024;
    vec![
        Limit {
            what: "texts of a request as BYTES",
            path: "/v2/models/a/infer",
            at: texts(2048),
            beyond: texts(2049),
            status: 400,
        },
        Limit {
            what: "texts in Cohere's words",
            path: "/v2/embed",
            at: cohere(96),
            beyond: cohere(97),
            status: 422,
        },
        Limit {
            what: "bytes of a text without truncation",
            path: "/tokenize",
            at: embed(long(TEXT_BYTES_MAX)),
            beyond: embed(long(TEXT_BYTES_MAX + 1)),
            status: 422,
        },
        Limit {
            what: "bytes rather than characters of a text",
            path: "/tokenize",
            at: embed("\u{e4} ".repeat(TEXT_BYTES_MAX / 3)),
            beyond: embed("\u{e4} ".repeat(TEXT_BYTES_MAX / 3 + 1)),
            status: 422,
        },
        Limit {
            what: "bytes of all pairs",
            path: "/v2/rerank",
            at: pairs(query_max),
            beyond: pairs(query_max + 1),
            status: 422,
        },
    ]
}

async fn assert_serves(server: &Server, client: &mut Client) {
    post(client, "/embed", &json!({"inputs": "a", "model": "a"})).await;
    assert_eq!(server.status().await.restarts(), 0, "a worker was restarted");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_a_limit_are_answered_and_beyond_it_refused() {
    let server = serve(&["a", "rerank_a"]).await;
    let mut client = server.client().await;
    for limit in limits() {
        let response = client.post(limit.path, &limit.at).await.expect("an answer");
        assert_eq!(response.status, 200, "{}: {:.500}", limit.what, response.text());
        let response = client.post(limit.path, &limit.beyond).await.expect("an answer");
        assert_eq!(response.status, limit.status, "{}: {:.500}", limit.what, response.text());
        assert!(message(&response.json()).len() < 1000, "{}", limit.what);
    }
    assert_serves(&server, &mut client).await;
    server.stop().await;
}

/// Returns requests beyond each tensor limit, with the limit that the refusal names.
fn beyond_tensors() -> Vec<(&'static str, Value, &'static str)> {
    let input = |name: &str, shape: Value| json!({"name": name, "datatype": "FP32", "shape": shape, "data": [1, 2, 3, 4]});
    let (x, shape) = (input("x", json!([1, 4])), json!([1, 4]));
    let outputs = |count: usize| vec![json!({"name": "y"}); count];
    vec![
        ("inputs", json!({"inputs": vec![x.clone(); 65]}), "64"),
        ("outputs", json!({"inputs": [x.clone()], "outputs": outputs(65)}), "64"),
        ("axes", json!({"inputs": [input("x", json!(vec![1; 17]))]}), "16"),
        ("an input's name", json!({"inputs": [input(&"x".repeat(257), shape)]}), "256"),
        ("an output's name", json!({"inputs": [x], "outputs": [{"name": "y".repeat(257)}]}), "256"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_beyond_a_limit_are_refused_with_the_limit() {
    let server = serve(&["a", "tensor_a", "tensor_image"]).await;
    let mut client = server.client().await;
    for (what, body, named) in beyond_tensors() {
        let message = refused(&mut client, &infer("tensor_a"), &body, 400).await;
        assert!(message.contains(named), "{what}: {message}");
    }
    // Empty elements: four megabytes that would become a million texts.
    let count = (1 << 20) + 1;
    let raw = vec![0; 4 * count];
    let body = json!({"inputs": [after("text", "BYTES", &json!([count]), raw.len())]});
    let response = send(&mut client, "a", &body, &raw).await;
    assert_eq!(response.status, 400, "{:.500}", response.text());
    let raw = bytes(&[&b""[..]; 2049]);
    let body = json!({"inputs": [after("text", "BYTES", &json!([2049]), raw.len())]});
    let response = send(&mut client, "a", &body, &raw).await;
    assert_eq!(response.status, 400, "{:.500}", response.text());
    // JSON would be many times larger than the same tensor in binary.
    let (size, width) = (8 << 20, (8 << 20) / 12);
    for (extra, status) in [(0, 200), (1, 424)] {
        let width = width + extra;
        let body = json!({"inputs": [after("image", "FP32", &json!([1, 3, 1, width]), width * 12)],
            "outputs": [{"name": "copy"}]});
        assert_eq!(width * 12 > size, extra > 0);
        let response = send(&mut client, "tensor_image", &body, &vec![0; width * 12]).await;
        assert_eq!(response.status, status, "{width}: {:.500}", response.text());
        if status == 424 {
            assert!(message(&response.json()).contains("binary"), "{}", response.text());
        }
    }
    assert_serves(&server, &mut client).await;
    server.stop().await;
}

/// Returns hostile JSON, with the allowed statuses.
fn odd_bodies() -> Vec<(&'static str, Bytes, &'static [u16])> {
    let embed = |inputs: &str| Bytes::from(format!(r#"{{"model": "a", "inputs": {inputs}}}"#));
    let mut with_mark = b"\xef\xbb\xbf".to_vec();
    with_mark.extend_from_slice(&embed(r#""a""#));
    vec![
        ("a million brackets", embed(&"[".repeat(1_000_000)), &[400]),
        ("a million braces", embed(&r#"{"":"#.repeat(400_000)), &[400]),
        ("a million elements", embed(&format!("[1{}]", ",1".repeat(900_000))), &[422]),
        ("many texts", embed(&format!(r#"["a"{}]"#, r#","a""#.repeat(400_000))), &[422]),
        ("a huge number", embed("1e99999"), &[400, 422]),
        ("a long number", embed(&"9".repeat(1_000_000)), &[400, 422]),
        ("a list of huge numbers", embed("[1e99999, -1e99999]"), &[400, 422]),
        ("a duplicate key", Bytes::from(r#"{"model":"a","inputs":"a","inputs":"b"}"#), &[400, 422]),
        ("a lone surrogate", embed(r#""\ud800""#), &[400]),
        ("swapped surrogates", embed(r#""\udc00\ud800""#), &[400]),
        ("not UTF-8", Bytes::from_static(b"{\"model\":\"a\",\"inputs\":\"\xc3\x28\"}"), &[400]),
        ("a byte order mark before JSON", with_mark.into(), &[400]),
        ("a byte order mark in a text", embed("\"\u{feff}a\""), &[200]),
        ("an escaped NUL", embed(r#""a\u0000b""#), &[200]),
        ("a literal NUL", Bytes::from_static(b"{\"model\":\"a\",\"inputs\":\"\0\"}"), &[400]),
        ("an empty text", embed(r#""""#), &[200, 400, 422]),
        ("a list with an empty text", embed(r#"["a",""]"#), &[200, 400, 422]),
        ("no inputs", embed("[]"), &[400]),
        ("only spaces", Bytes::from(" ".repeat(1_000_000)), &[400]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_json_gets_an_answer_and_disturbs_no_other() {
    let server = serve(&["a", "tensor_a"]).await;
    let mut client = server.client().await;
    for path in ["/embed", "/tokenize"] {
        for (what, body, statuses) in odd_bodies() {
            let response = client.send(Method::POST, path, body).await.expect("an answer");
            let text = response.text();
            assert!(statuses.contains(&response.status), "{what} {path}: {text:.500}");
            if response.status != 200 {
                assert!(message(&response.json()).len() < 1000, "{what} {path}: {text:.2000}");
            }
            if what == "a byte order mark before JSON" {
                assert!(text.contains("begins with a UTF-8 byte order mark; remove it"), "{text}");
            }
        }
    }
    let floats = |data: &str, shape: &str| {
        let body = format!(
            r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":{shape},"data":{data}}}]}}"#
        );
        Bytes::from(body)
    };
    for (what, body) in [
        ("a huge number", floats("[1,2,3,1e99999]", "[1,4]")),
        ("NaN", floats("[1,2,3,NaN]", "[1,4]")),
        ("a duplicate shape", floats("[1,2,3,4]", "[1,4],\"shape\":[2,2]")),
        ("a million elements", floats(&format!("[1{}]", ",1".repeat(1_000_000)), "[1,4]")),
    ] {
        let response = client.send(Method::POST, &infer("tensor_a"), body).await.expect("one");
        assert_eq!(response.status, 400, "{what}: {:.500}", response.text());
        assert!(message(&response.json()).len() < 1000, "{what}");
    }
    // An empty batch gets an empty answer.
    let body = floats("[]", "[0,4]");
    let response = client.send(Method::POST, &infer("tensor_a"), body).await.expect("one");
    assert_eq!(response.json()["outputs"][0]["shape"], json!([0, 3]), "{}", response.text());
    assert_serves(&server, &mut client).await;
    server.stop().await;
}

/// Some tokenizers need minutes for such texts.
#[tokio::test(flavor = "multi_thread")]
async fn runs_of_dots_are_answered_up_to_the_limit() {
    let server = serve(&["a"]).await;
    let mut client = server.client().await;
    for path in ["/embed", "/tokenize"] {
        let dots = |count: usize| json!({"inputs": ".".repeat(count), "model": "a"});
        let mut whole = dots(1_000_000);
        whole["truncate"] = false.into();
        refused(&mut client, path, &whole, 422).await;
        post(&mut client, path, &dots(TEXT_BYTES_MAX)).await;
    }
    post(&mut client, "/embed", &json!({"inputs": ".".repeat(1_000_000)})).await;
    let many = vec![".".repeat(60_000); 32];
    post(&mut client, "/embed", &json!({"inputs": many, "model": "a"})).await;
    assert_serves(&server, &mut client).await;
    server.stop().await;
}
