//! Compressed bodies, including decompression bombs.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use bytes::Bytes;
use e2e::client::{Client, Response};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use hyper::Method;
use serde_json::json;

use crate::{
    TEXT, assert_close, memory, message, serve,
    tensors::{HEADER, after, float_request, floats, infer, parts, raw, reference_tensor},
};

fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory").into()
}

fn zlib(body: &[u8]) -> Bytes {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).and_then(|()| encoder.finish()).expect("memory").into()
}

/// Returns a small body that decompresses to a gibibyte of spaces.
fn bomb() -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    io::copy(&mut io::Read::take(io::repeat(b' '), 1 << 30), &mut encoder).expect("memory");
    encoder.finish().expect("memory").into()
}

async fn packed(client: &mut Client, path: &str, encoding: &str, body: Bytes) -> Response {
    let headers = [("content-type", "application/json"), ("content-encoding", encoding)];
    client.send_with(Method::POST, path, &headers, body).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_decompressed() {
    let server = serve(&["tensor_a", "a"]).await;
    let mut client = server.client().await;
    let body = float_request("x", &[3, 4], &reference_tensor("tensor_a", "x")).to_string();
    let expected = reference_tensor("tensor_a", "y");
    for (encoding, packing) in [
        ("gzip", gzip as fn(&[u8]) -> Bytes),
        ("GZIP", gzip),
        ("x-gzip", gzip),
        ("deflate", zlib),
        ("identity", |body| Bytes::copy_from_slice(body)),
    ] {
        let response =
            packed(&mut client, &infer("tensor_a"), encoding, packing(body.as_bytes())).await;
        let (json, _) = parts(&response);
        assert_close(&crate::numbers(&json["outputs"][0]["data"]), &expected, encoding);
        let text = json!({"inputs": TEXT, "model": "a"}).to_string();
        let response = packed(&mut client, "/embed", encoding, packing(text.as_bytes())).await;
        let expected = &e2e::fixtures::reference().models["a"][crate::TEXT_INDEX];
        assert_close(&response.embeddings()[0], expected, encoding);
    }
    // The JSON length in the header refers to the decompressed body.
    let json = json!({"inputs": [after("x", "FP32", &json!([3, 4]), 48)],
        "parameters": {"binary_data_output": true}})
    .to_string();
    let body = gzip(&[json.as_bytes(), &raw(&reference_tensor("tensor_a", "x"))].concat());
    let length = json.len().to_string();
    let headers = [("content-encoding", "gzip"), (HEADER, length.as_str())];
    let sent = client.send_with(Method::POST, &infer("tensor_a"), &headers, body).await;
    let (_, out) = parts(&sent.expect("an answer"));
    assert_close(&floats(&out[0]), &expected, "raw");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_body_is_refused() {
    let server = serve(&["tensor_a"]).await;
    let body = float_request("x", &[1, 4], &[0.0; 4]).to_string();
    let good = gzip(body.as_bytes());
    for path in [infer("tensor_a").as_str(), "/embed", "/v1/embeddings", "/v2/rerank"] {
        let mut client = server.client().await;
        for encoding in ["br", "zstd", "gzip, gzip", "compress", "none"] {
            let response = packed(&mut client, path, encoding, good.clone()).await;
            assert_eq!(response.status, 415, "{path} {encoding}: {}", response.text());
            message(&response.json());
        }
        for (encoding, body) in [
            ("gzip", Bytes::from(body.clone())),
            ("deflate", good.clone()),
            ("gzip", good.slice(..good.len() - 9)),
            ("gzip", good.slice(..5)),
            ("gzip", Bytes::new()),
            ("gzip", [&good[..], b"more"].concat().into()),
        ] {
            let response = packed(&mut client, path, encoding, body).await;
            assert_eq!(response.status, 400, "{path} {encoding}: {}", response.text());
            message(&response.json());
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decompression_bomb_is_413_at_once_and_takes_no_memory() {
    let server = serve(&["tensor_a", "a"]).await;
    let bomb = bomb();
    assert!(bomb.len() < 2_000_000, "expected a small bomb, got {} bytes", bomb.len());
    // Tensor bodies may be larger than texts, so their limit is higher.
    for (path, grown_max) in [("/embed", 16 << 20), (infer("tensor_a").as_str(), 160 << 20)] {
        let peak = memory(&server, "VmHWM");
        let mut client = server.client().await;
        let start = Instant::now();
        let response = packed(&mut client, path, "gzip", bomb.clone()).await;
        assert_eq!(response.status, 413, "{path}: {}", response.text());
        message(&response.json());
        assert!(start.elapsed() < Duration::from_secs(20), "{path}: {:?}", start.elapsed());
        let grown = memory(&server, "VmHWM") - peak;
        assert!(grown <= grown_max, "{path}: memory grew by {} MiB", grown >> 20);
    }
    // Concurrent bombs share the budget for large bodies; some get a 429.
    let before = memory(&server, "VmRSS");
    let many = (0..24).map(|_| {
        let (address, bomb) = (server.address(), bomb.clone());
        tokio::spawn(async move {
            let mut client = Client::connect(address).await.expect("a connection");
            packed(&mut client, &infer("tensor_a"), "gzip", bomb).await
        })
    });
    for one in many.collect::<Vec<_>>() {
        let response = one.await.expect("an answer");
        assert!([413, 429].contains(&response.status), "{}", response.text());
        assert!(response.status == 413 || response.header("retry-after").is_some());
    }
    let peak = memory(&server, "VmHWM");
    assert!(peak - before <= 768 << 20, "memory grew by {} MiB", (peak - before) >> 20);
    let timeout = Duration::from_secs(20);
    e2e::eventually("the memory is released", timeout, async || {
        (memory(&server, "VmRSS") < before + (64 << 20)).then_some(())
    })
    .await;
    let mut client = server.client().await;
    crate::post(&mut client, "/embed", &json!({"inputs": "a", "model": "a"})).await;
    server.stop().await;
}
