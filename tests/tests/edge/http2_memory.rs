//! What bodies over HTTP/2 may cost while they arrive slowly.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use e2e::{exposition::Exposition, fixtures::model, processes, server::Server};
use hyper::{
    Request,
    body::{Body, Frame, SizeHint},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet};

use crate::connection::once;

const TIMEOUT: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 12;
/// Calls on each connection: as many as the server allows.
const CALLS: usize = 128;
const BODY_BYTES: usize = 60_000;
const BUDGET_BYTES: usize = 8 << 20;
/// What each connection may have besides: bodies that are not charged, and bytes that are not read yet.
const CONNECTION_BYTES: usize = (64 + 256) * 1024;
/// Memory of the process for connections, calls and the allocator.
const OVERHEAD_BYTES: usize = 32 << 20;

/// A body that never ends: its last byte is missing.
struct Unfinished(Option<Bytes>);

impl Body for Unfinished {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.0.take() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(BODY_BYTES as u64)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_of_many_calls_stay_within_the_budget() {
    let server = Server::builder().model("m", &model("tiny/a"));
    let server = server.argument("--body-memory=8").start().await;
    let address = server.address();
    let embed = async || once(address, ("POST", "/embed"), &[], r#"{"inputs": "a"}"#).await.status;
    assert_eq!(embed().await, 200);
    let before = processes::peak_memory_bytes(server.pid());
    let (mut calls, mut refused, mut senders) = (JoinSet::new(), 0, Vec::new());
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).await.expect("a connection");
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.expect("a handshake");
        tokio::spawn(connection);
        for _ in 0..CALLS {
            let mut sender = sender.clone();
            let body = Unfinished(Some(vec![b' '; BODY_BYTES - 1].into()));
            let request = Request::post(format!("http://{address}/embed")).body(body);
            let request = request.expect("a request");
            calls.spawn(async move {
                sender.ready().await.expect("a live connection");
                sender.send_request(request).await.map(|answer| answer.status().as_u16())
            });
        }
        senders.push(sender);
    }
    let admitted_max = (BUDGET_BYTES + CONNECTIONS * CONNECTION_BYTES) / BODY_BYTES;
    while CONNECTIONS * CALLS - refused > admitted_max {
        let answer = tokio::time::timeout(TIMEOUT, calls.join_next()).await;
        let answer = answer.unwrap_or_else(|_| panic!("only {refused} calls were refused"));
        let status = answer.expect("more calls").expect("no panic").expect("an answer");
        assert_eq!(status, 429);
        refused += 1;
    }
    let grown = processes::peak_memory_bytes(server.pid()) - before;
    let bound = BUDGET_BYTES + CONNECTIONS * CONNECTION_BYTES + OVERHEAD_BYTES;
    assert!(grown < bound as u64, "memory grew by {} KiB", grown >> 10);
    // Other clients are served meanwhile, and the memory is free again afterwards.
    assert_eq!(embed().await, 200);
    drop((calls, senders));
    e2e::eventually("a free body budget", TIMEOUT, async || {
        let metrics = once(address, ("GET", "/metrics"), &[], "").await.text();
        let metrics = Exposition::parse(&metrics).expect("metrics");
        (metrics.value("onnxd_body_memory_bytes", &[]) == 0.0).then_some(())
    })
    .await;
    server.stop().await;
}
