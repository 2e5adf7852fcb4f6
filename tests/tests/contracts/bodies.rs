//! Bodies that never end, come byte by byte, or for which there is no room: each gets an answer
//! that can be read, and costs little.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use e2e::{client::exchange, server::Server};
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::{memory, message, serve, tensors::infer};

const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of all large bodies at once, and of one.
const BODIES_BYTES_MAX: usize = 512 << 20;
const BODY_BYTES_MAX: usize = 65 << 20;
/// For a body of two megabytes and what goes with it.
const GROWN_BYTES_MAX: u64 = 32 << 20;

fn head(path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{more}\r\n\r\n")
}

/// As most clients do it: everything is written before anything is read. Answers what came back
/// until the end, and how many bytes could be written.
fn blocking(address: SocketAddr, head: &str, piece: &[u8], pieces: usize) -> (String, usize) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
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
async fn a_body_that_comes_byte_by_byte_or_never_ends_takes_no_more_memory_than_another() {
    let server = serve(&["a", "tensor_a"]).await;
    assert_serves(&server).await;
    let (address, peak) = (server.address(), memory(&server, "VmHWM"));
    let chunked = head("/embed", "transfer-encoding: chunked");
    // Two million chunks of a byte: one more than a body may have.
    let (head, piece) = (chunked.clone(), b"1\r\na\r\n".repeat(1000));
    let sent = spawn_blocking(move || blocking(address, &head, &piece, 2001));
    let (answer, _) = sent.await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    // Whoever goes on for ever is read for a little longer and then closed.
    let mut endless = b"10000\r\n".to_vec();
    endless.extend_from_slice(&[b'a'; 0x1_0000]);
    endless.extend_from_slice(b"\r\n");
    let sent = spawn_blocking(move || blocking(address, &chunked, &endless, 1 << 20));
    let (_, written) = sent.await.expect("no panic");
    assert!(written < 64 << 20, "{written} bytes were taken of a body that never ends");
    let grown = memory(&server, "VmHWM") - peak;
    assert!(grown < GROWN_BYTES_MAX, "{} MiB more", grown >> 20);
    assert_serves(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_room_for_a_large_body_can_read_when_to_come_back() {
    let server = serve(&["a", "tensor_a"]).await;
    let (address, path) = (server.address(), infer("tensor_a"));
    // They take all the room but 17 MiB by what they announce, and send nothing.
    let mut held = Vec::new();
    let last = BODIES_BYTES_MAX % BODY_BYTES_MAX - (17 << 20);
    let many = vec![BODY_BYTES_MAX; BODIES_BYTES_MAX / BODY_BYTES_MAX];
    for bytes in many.into_iter().chain([last]) {
        let mut stream = TcpStream::connect(address).expect("a connection");
        let announced = head(&path, &format!("content-length: {bytes}"));
        stream.write_all(announced.as_bytes()).expect("a head");
        held.push(stream);
    }
    // Whoever asks before all of these have been read would take the room of the last.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let full = head(&path, &format!("content-length: {}", 18 << 20));
    e2e::eventually("no room", PATIENCE, async || {
        let raw = exchange(address, full.as_bytes(), Duration::from_secs(1)).await.ok()?;
        (raw.status() == Some(429)).then_some(())
    })
    .await;
    let size = 30 << 20;
    let announced = (head(&path, &format!("content-length: {size}")), vec![b' '; 1 << 20]);
    let mut chunk = b"100000\r\n".to_vec();
    chunk.extend(vec![b' '; 1 << 20]);
    chunk.extend(b"\r\n");
    // This one is refused in the middle.
    let chunked = (head(&path, "transfer-encoding: chunked"), chunk);
    for (head, piece) in [announced, chunked] {
        let sent = spawn_blocking(move || blocking(address, &head, &piece, 30));
        let (answer, written) = sent.await.expect("no panic");
        assert!(written >= size, "{written} bytes were written");
        assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
        assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        message(&serde_json::from_str(body).expect("JSON"));
    }
    // Small ones need no room, and who gives up gives it back.
    assert_serves(&server).await;
    drop(held);
    e2e::eventually("there is room", PATIENCE, async || {
        let raw = exchange(address, full.as_bytes(), Duration::from_millis(500)).await.ok()?;
        raw.status().is_none().then_some(())
    })
    .await;
    server.stop().await;
}
