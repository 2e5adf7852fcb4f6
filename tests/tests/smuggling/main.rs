//! Request smuggling: tested directly, behind nginx and behind haproxy. Both proxies share
//! connections to onnxd among their clients.

#![allow(clippy::print_stderr, reason = "skipped tests are reported")]

mod corpus;
mod proxy;

use std::{net::SocketAddr, time::Duration};

use e2e::{
    client::{Client, exchange},
    exposition::Exposition,
    fixtures::model,
    server::Server,
};

use self::{
    corpus::{Expected, cases},
    proxy::{Kind, Proxy},
};

const TIMEOUT: Duration = Duration::from_millis(1500);

/// Returns how many hidden requests were answered.
async fn hidden(server: &Server) -> u64 {
    let text = server.client().await.get("/metrics").await.expect("an answer").text();
    let exposition = Exposition::parse(&text).expect("an exposition");
    let labels = [("route", "/v2/health/live"), ("code", "200")];
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let count = exposition.value("onnxd_requests_total", &labels) as u64;
    count
}

/// Asserts that other clients get the answers to their own requests.
async fn assert_innocent(address: SocketAddr, after: &str) {
    for number in 0..3 {
        let path = format!("/innocent-{number}");
        let mut client = Client::connect(address).await.expect("a connection");
        let answer = client.get(&path).await.unwrap_or_else(|error| panic!("{after}: {error}"));
        assert!(answer.text().contains(&path), "after {after}: {}", answer.text());
    }
}

async fn server() -> Server {
    Server::builder().model("a", &model("tiny/a")).workers(1).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_smuggled_directly() {
    let server = server().await;
    for case in cases() {
        let before = hidden(&server).await;
        let raw = exchange(server.address(), &case.bytes, TIMEOUT).await.expect("a connection");
        let shown = String::from_utf8_lossy(&raw.received).into_owned();
        let counted = hidden(&server).await - before;
        let what = case.what;
        assert!(!shown.contains(" 101 "), "{what}: {shown}");
        match case.expected {
            Expected::Ends => {
                assert!(raw.closed, "{what}: the connection stayed open: {shown}");
                assert!(!shown.contains("HTTP/1.1 2"), "{what}: {shown}");
                assert_eq!(counted, 0, "{what}: the hidden request was answered: {shown}");
            }
            Expected::Hides(count) => assert_eq!(counted, count, "{what}: {shown}"),
        }
        assert_innocent(server.address(), what).await;
    }
    server.stop().await;
}

async fn assert_none_smuggled(kind: Kind) {
    let server = server().await;
    let Some(proxy) = Proxy::start(kind, &server).await else { return server.stop().await };
    assert_innocent(proxy.address, "the start").await;
    for case in cases() {
        let (before, forwarded) = (hidden(&server).await, proxy.forwarded_hidden());
        // Whatever the proxy makes of it, later requests get their own answers.
        exchange(proxy.address, &case.bytes, TIMEOUT).await.expect("a connection");
        assert_innocent(proxy.address, case.what).await;
        let counted = hidden(&server).await - before;
        if let (Some(before), Some(after)) = (forwarded, proxy.forwarded_hidden()) {
            assert_eq!(
                counted,
                after - before,
                "{}: answered as many as were forwarded",
                case.what
            );
        }
    }
    drop(proxy);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_smuggled_behind_nginx() {
    assert_none_smuggled(Kind::Nginx).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_smuggled_behind_haproxy() {
    assert_none_smuggled(Kind::Haproxy).await;
}
