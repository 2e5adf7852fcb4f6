//! Inconsistent Open Inference Protocol bodies are refused immediately and disturb nothing else.

use std::time::Duration;

use bytes::Bytes;
use e2e::{
    client::{Client, exchange},
    server::Server,
};
use serde_json::{Value, json};

use crate::{
    memory, message, post, refused, serve,
    tensors::{HEADER, after, bytes, float_request, infer, send, send_raw},
};

const TENSORS_BYTES_MAX: usize = 64 << 20;

async fn assert_serves(server: &Server, client: &mut Client) {
    post(client, &infer("tensor_a"), &float_request("x", &[1, 4], &[1.0; 4])).await;
    let status = server.status().await;
    assert_eq!(status.restarts(), 0, "a worker was restarted");
}

#[tokio::test(flavor = "multi_thread")]
async fn inconsistent_or_overflowing_shapes_are_refused() {
    let server = serve(&["tensor_a", "tensor_image", "tensor_types", "a"]).await;
    let mut client = server.client().await;
    let big = 1_u64 << 32;
    for shape in [
        json!([-1, 4]),
        json!([1.5, 4]),
        json!(["1", 4]),
        json!([1, 4, 1]),
        json!([]),
        json!([2, 4]),
        json!([0, 4]),
        json!([big, big]),
        json!([1_u64 << 63, 4]),
        json!([u64::MAX, 4]),
        json!([u64::MAX, 0]),
        json!([18_446_744_073_709_551_616_f64, 4]),
        json!(vec![1; 100]),
        json!(null),
    ] {
        let body = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": [1, 2, 3, 4]}]});
        refused(&mut client, &infer("tensor_a"), &body, 400).await;
        let body = json!({"inputs": [after("x", "FP32", &shape, 16)]});
        let response = send(&mut client, "tensor_a", &body, &[0; 16]).await;
        assert_eq!(response.status, 400, "{shape}: {}", response.text());
        message(&response.json());
    }
    // No elements, but with sizes that a model could try to use.
    for shape in [
        json!([0, 3, u64::MAX, u64::MAX]),
        json!([0, 3, 1_u64 << 63, 1]),
        json!([1_u64 << 62, 3, 0, 0]),
        json!([1_u64 << 40, 3, 0, 1]),
        json!([1_u64 << 28, 3, 0, 1]),
    ] {
        let body =
            json!({"inputs": [{"name": "image", "datatype": "FP32", "shape": shape, "data": []}]});
        let error = refused(&mut client, &infer("tensor_image"), &body, 400).await;
        assert!(error.contains("image"), "{error}");
    }
    assert_serves(&server, &mut client).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inconsistent_sizes_are_refused() {
    let server = serve(&["tensor_a", "a"]).await;
    let mut client = server.client().await;
    let input = |size: &Value| {
        let mut input = after("x", "FP32", &json!([1, 4]), 16);
        input["parameters"]["binary_data_size"] = size.clone();
        json!({"inputs": [input]})
    };
    for (size, sent) in [
        (json!(16), 15),
        (json!(16), 17),
        (json!(16), 0),
        (json!(15), 15),
        (json!(32), 32),
        (json!(0), 0),
        (json!(-1), 16),
        (json!("16"), 16),
        (json!(u64::MAX), 16),
        (json!(1_u64 << 40), 16),
    ] {
        let response = send(&mut client, "tensor_a", &input(&size), &vec![0; sent]).await;
        assert_eq!(response.status, 400, "{size} {sent}: {}", response.text());
        message(&response.json());
    }
    let json = input(&json!(16)).to_string();
    let body: Bytes = [json.as_bytes(), &[0; 16]].concat().into();
    for length in ["1", "99999", "-1", "x", "", "18446744073709551616", "1.0"] {
        let response = send_raw(&mut client, "tensor_a", length, body.clone()).await;
        assert_eq!(response.status, 400, "{length}: {}", response.text());
        message(&response.json());
    }
    for (what, raw) in [
        ("a length beyond the end", [&9_u32.to_le_bytes()[..], b"a"].concat()),
        ("the largest length", u32::MAX.to_le_bytes().to_vec()),
        ("half a length", vec![1, 0]),
        ("two texts of one", bytes(&[b"a", b"b"])),
        ("no text", Vec::new()),
        ("not UTF-8", bytes(&[b"\xff"])),
    ] {
        let body = json!({"inputs": [after("text", "BYTES", &json!([1]), raw.len())]});
        let response = send(&mut client, "a", &body, &raw).await;
        assert_eq!(response.status, 400, "{what}: {}", response.text());
        message(&response.json());
    }
    let body = json!({"inputs": [after("text", "BYTES", &json!([u64::MAX]), 4)]});
    assert_eq!(send(&mut client, "a", &body, &[0; 4]).await.status, 400);
    assert_serves(&server, &mut client).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_json_is_refused() {
    let server = serve(&["tensor_a"]).await;
    let mut client = server.client().await;
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let with = |data: &str| {
        format!(
            r#"{{"inputs": [{{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": {data}}}]}}"#
        )
    };
    for body in [
        String::new(),
        "{".into(),
        "[]".into(),
        r#"{"inputs": {}}"#.into(),
        with(&deep(20)),
        with(&deep(50_000)),
        with("[1, 2, 3]"),
        with("[1, 2, 3, 4, 5]"),
        with("[1, 2, 3, null]"),
        with("[1, 2, 3, true]"),
        with(r#"[1, 2, 3, "4"]"#),
        with("[1, 2, 3, 1e39]"),
        with("[1, 2, 3, NaN]"),
        with("1"),
        with("{}"),
        with("[1, 2, 3, 4]").replace("FP32", "fp32"),
        with("[1, 2, 3, 4]").replace("\"FP32\"", "1"),
    ] {
        let sent = client.send(hyper::Method::POST, &infer("tensor_a"), body.clone().into()).await;
        let response = sent.expect("an answer");
        assert_eq!(response.status, 400, "{body:.100}: {}", response.text());
        assert!(message(&response.json()).len() < 1000, "{body:.100}");
    }
    assert_serves(&server, &mut client).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_not_expanded_many_times_in_memory() {
    let server = serve(&["tensor_a"]).await;
    let mut client = server.client().await;
    let body_bytes = 48 << 20;
    let zeros = |open: &str, each: &str, close: &str| {
        format!("{open}{}{close}", each.repeat((body_bytes - 200) / each.len()))
    };
    let input = r#"{"inputs": [{"name": "x", "datatype": "FP64", "shape": ["#;
    for (what, body) in [
        ("elements", zeros(&format!(r#"{input}1, 4], "data": [0"#), ",0", "]}]}")),
        ("axes", zeros(&format!("{input}1"), ",1", r#"], "data": []}]}"#)),
        (
            "inputs",
            zeros(&format!("{input}1]}}"), r#",{"name":"","shape":[],"datatype":"INT8"}"#, "]}"),
        ),
        ("outputs", zeros(r#"{"inputs": [], "outputs": [{"name":""}"#, r#",{"name":""}"#, "]}")),
    ] {
        let peak = memory(&server, "VmHWM");
        let sent = client.send(hyper::Method::POST, &infer("tensor_a"), body.into()).await;
        let response = sent.expect("an answer");
        assert_eq!(response.status, 400, "{what}: {:.500}", response.text());
        message(&response.json());
        // Allows for the body and one copy of its elements.
        let grown = memory(&server, "VmHWM") - peak;
        assert!(grown <= 150 << 20, "{what}: memory grew by {} MiB", grown >> 20);
    }
    assert_serves(&server, &mut client).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_or_tensor_over_the_limit_is_413() {
    let server = serve(&["tensor_a", "tensor_image"]).await;
    let mut client = server.client().await;
    let head = |length: u64, more: &str| {
        format!(
            "POST {} HTTP/1.1\r\nhost: x\r\n{HEADER}: 0\r\n{more}content-length: {length}\r\n\r\n",
            infer("tensor_a")
        )
    };
    // A request that announces an oversized body is refused without waiting for the body.
    for length in [TENSORS_BYTES_MAX as u64 + (1 << 20) + 1, u64::MAX / 2] {
        let request = head(length, "");
        let timeout = Duration::from_secs(10);
        let raw = exchange(server.address(), request.as_bytes(), timeout).await.expect("connected");
        assert_eq!(raw.status(), Some(413), "{length}: {}", raw.body());
        assert!(raw.closed, "the connection cannot be used further");
        message(&serde_json::from_str(&raw.body()).expect("JSON"));
    }
    // Within the limit on bodies, but above that on tensors.
    let rows = TENSORS_BYTES_MAX / 16 + 1;
    let response = send_raw(&mut client, "tensor_a", "0", vec![0; rows * 16].into()).await;
    assert_eq!(response.status, 413, "{}", response.text());
    message(&response.json());
    // The input is at the limit; both outputs together would exceed it.
    let shape = json!([1, 3, 1, TENSORS_BYTES_MAX / 12]);
    let size = TENSORS_BYTES_MAX / 12 * 12;
    let body = json!({"inputs": [after("image", "FP32", &shape, size)],
        "outputs": [{"name": "copy", "parameters": {"binary_data": true}}]});
    let mut client = server.client().await;
    let response = send(&mut client, "tensor_image", &body, &vec![0; size]).await;
    assert_eq!(response.status, 200, "{:.500}", response.text());
    let mut both = body.clone();
    both["outputs"] = json!([]);
    both["parameters"] = json!({"binary_data_output": true});
    let response = send(&mut client, "tensor_image", &both, &vec![0; size]).await;
    assert_eq!(response.status, 424, "{:.500}", response.text());
    assert!(message(&response.json()).contains("outputs"), "{}", response.text());
    assert_serves(&server, &mut client).await;
    server.stop().await;
}
