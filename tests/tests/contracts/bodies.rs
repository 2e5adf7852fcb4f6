//! Slow, endless and oversized bodies. Each request gets a readable answer and costs little.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use e2e::{client::exchange, server::Server};
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::{memory, message, serve, tensors::infer};

const TIMEOUT: Duration = Duration::from_secs(60);
/// Limit on all large bodies together, and on one body.
const BODIES_BYTES_MAX: usize = 512 << 20;
const BODY_BYTES_MAX: usize = 65 << 20;
/// Enough for a body of two megabytes and its overhead.
const GROWN_BYTES_MAX: u64 = 32 << 20;

fn head(path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{more}\r\n\r\n")
}

/// Sends a request like most clients: writes everything before it reads anything. Returns the
/// answer up to the end of the connection, and the number of bytes written.
fn blocking(address: SocketAddr, head: &str, piece: &[u8], pieces: usize) -> (String, usize) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    stream.write_all(head.as_bytes()).expect("a head");
    let mut written = 0;
    for _ in 0..pieces {
        if stream.write_all(piece).is_err() {
            break;
        }
        written += piece.len();
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    (String::from_utf8_lossy(&answer).into_owned(), written)
}

async fn assert_serves(server: &Server) {
    let mut client = server.client().await;
    crate::post(&mut client, "/embed", &json!({"inputs": "a", "model": "a"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_endless_bodies_take_no_more_memory_than_others() {
    let server = serve(&["a", "tensor_a"]).await;
    assert_serves(&server).await;
    let (address, peak) = (server.address(), memory(&server, "VmHWM"));
    let chunked = head("/embed", "transfer-encoding: chunked");
    // Two million chunks of one byte: one byte over the limit.
    let (head, piece) = (chunked.clone(), b"1\r\na\r\n".repeat(1000));
    let sent = spawn_blocking(move || blocking(address, &head, &piece, 2001));
    let (answer, _) = sent.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    // The server reads an endless body a little longer, then closes the connection.
    let mut endless = b"10000\r\n".to_vec();
    endless.extend_from_slice(&[b'a'; 0x1_0000]);
    endless.extend_from_slice(b"\r\n");
    let sent = spawn_blocking(move || blocking(address, &chunked, &endless, 1 << 20));
    let (_, written) = sent.await.expect("no panic");
    assert!(written < 64 << 20, "{written} bytes of an endless body were read");
    let grown = memory(&server, "VmHWM") - peak;
    assert!(grown < GROWN_BYTES_MAX, "memory grew by {} MiB", grown >> 20);
    assert_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_without_memory_names_a_retry_delay() {
    let server = serve(&["a", "tensor_a"]).await;
    let (address, path) = (server.address(), infer("tensor_a"));
    // These announce bodies that fill the budget except for 17 MiB, and send nothing.
    let mut held = Vec::new();
    let last = BODIES_BYTES_MAX % BODY_BYTES_MAX - (17 << 20);
    let many = vec![BODY_BYTES_MAX; BODIES_BYTES_MAX / BODY_BYTES_MAX];
    for bytes in many.into_iter().chain([last]) {
        let mut stream = TcpStream::connect(address).expect("a connection");
        let announced = head(&path, &format!("content-length: {bytes}"));
        stream.write_all(announced.as_bytes()).expect("a head");
        held.push(stream);
    }
    // An earlier request would take the last one's share of the budget.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let full = head(&path, &format!("content-length: {}", 18 << 20));
    e2e::eventually("a full body budget", TIMEOUT, async || {
        let raw = exchange(address, full.as_bytes(), Duration::from_secs(1)).await.ok()?;
        (raw.status() == Some(429)).then_some(())
    })
    .await;
    let size = 30 << 20;
    let announced = (head(&path, &format!("content-length: {size}")), vec![b' '; 1 << 20]);
    let mut chunk = b"100000\r\n".to_vec();
    chunk.extend(vec![b' '; 1 << 20]);
    chunk.extend(b"\r\n");
    // This one is refused midway.
    let chunked = (head(&path, "transfer-encoding: chunked"), chunk);
    for (head, piece) in [announced, chunked] {
        let sent = spawn_blocking(move || blocking(address, &head, &piece, 30));
        let (answer, written) = sent.await.expect("no panic");
        assert!(written >= size, "only {written} bytes were written");
        assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
        assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        message(&serde_json::from_str(body).expect("JSON"));
    }
    // Small bodies are not counted, and a closed connection releases its share.
    assert_serves(&server).await;
    drop(held);
    e2e::eventually("a free body budget", TIMEOUT, async || {
        let raw = exchange(address, full.as_bytes(), Duration::from_millis(500)).await.ok()?;
        raw.status().is_none().then_some(())
    })
    .await;
    server.stop().await;
}
