//! HTTP/2 on the public port: with prior knowledge, or by ALPN; beside HTTP/1.1.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use e2e::{client::Response, fixtures::model, processes::Signal, server::Server};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use crate::{
    connection::{Connection, name, once, pair, trusting},
    file,
    tls::{over_tls, start},
};

const EMBED: (&str, &str) = ("POST", "/embed");

/// One HTTP/2 connection, whose calls are made at the same time.
#[derive(Clone)]
struct Http2(SendRequest<Full<Bytes>>);

impl Http2 {
    async fn plain(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("a connection")).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("a handshake");
        // The error also reaches the pending calls.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self(sender)
    }

    async fn send(
        &mut self,
        (method, path): (&str, &str),
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response, hyper::Error> {
        let uri = format!("http://localhost{path}");
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        self.0.ready().await?;
        let request = builder.body(Full::new(body.into())).expect("a request");
        let (parts, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Response { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

fn texts(count: usize) -> String {
    json!({"inputs": (0..count).map(|i| format!("text {i}")).collect::<Vec<_>>()}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_are_served_on_one_port_with_the_same_answers() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let address = server.address();
    let mut http2 = Http2::plain(address).await;
    let calls = [
        (EMBED, texts(8)),
        (("POST", "/embed/"), texts(1)),
        (("POST", "/v1/embeddings"), json!({"model": "m", "input": "a"}).to_string()),
        (("GET", "/v2/models/m"), String::new()),
        (("GET", "/health"), String::new()),
        (("GET", "/no-route"), String::new()),
        (EMBED, "{".to_owned()),
    ];
    for (call, body) in calls {
        let one = once(address, call, &[], body.clone()).await;
        let two = http2.send(call, &[], body).await.expect("an answer");
        assert_eq!((two.status, two.text()), (one.status, one.text()), "{call:?}");
        assert_eq!(two.generation(), one.generation(), "{call:?}");
    }
    // A client may send the preface byte by byte; a request that begins alike is HTTP/1.1.
    let mut slow = TcpStream::connect(address).await.expect("a connection");
    slow.set_nodelay(true).expect("an option");
    for byte in b"PR" {
        slow.write_all(&[*byte]).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let raw = e2e::client::exchange(
        address,
        b"PRI * HTTP/1.1\r\nhost: a\r\n\r\n",
        Duration::from_secs(10),
    );
    let status = raw.await.expect("a connection").status();
    assert!(matches!(status, Some(400..=499)), "{status:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_connection_run_at_once_and_none_fails_during_updates() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let http2 = Http2::plain(server.address()).await;
    let mut callers = JoinSet::new();
    for _ in 0..32 {
        let mut http2 = http2.clone();
        callers.spawn(async move {
            let mut last = 0;
            for _ in 0..30 {
                let answer = http2.send(EMBED, &[], texts(3)).await.expect("an answer");
                assert_eq!(answer.status, 200, "{}", answer.text());
                let generation = answer.generation().expect("a generation");
                assert!(generation >= last, "{generation} after {last}");
                last = generation;
            }
            last
        });
    }
    for from in ["tiny/b", "tiny/a"] {
        server.update("m", Some(&model(from))).await.expect("an update");
    }
    let last = callers.join_all().await.into_iter().max();
    assert!(last.is_some());
    let mut http2 = http2;
    let answer = http2.send(EMBED, &[], texts(1)).await.expect("an answer");
    assert_eq!(answer.generation(), Some(3));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_open_calls_and_ends_the_connection() {
    let server = Server::builder().model("m", &model("tiny/a"));
    let mut server = server.argument("--shutdown-delay").argument("1").start().await;
    let mut http2 = Http2::plain(server.address()).await;
    server.signal(Signal::SIGTERM);
    // Calls go on during the delay, and the last ones are answered.
    let mut answered = 0;
    while let Ok(answer) = http2.send(EMBED, &[], texts(1)).await {
        assert_eq!(answer.status, 200, "{}", answer.text());
        answered += 1;
    }
    assert!(answered > 1, "{answered}");
    let exit = server.wait().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_after_the_idle_timeout() {
    let server = Server::builder().model("m", &model("tiny/a"));
    let server = server.argument("--idle-timeout").argument("1").start().await;
    let mut http2 = Http2::plain(server.address()).await;
    assert_eq!(http2.send(EMBED, &[], texts(1)).await.expect("an answer").status, 200);
    e2e::eventually("the end of the connection", Duration::from_secs(20), async || {
        http2.0.is_closed().then_some(())
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_ends_neither_the_connection_nor_other_calls() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let keys = file(&builder.directories(), "keys", "secret-key-1\n");
    let server = builder.argument("--api-key-file").argument(keys.to_str().expect("UTF-8"));
    let server = server.start().await;
    let mut http2 = Http2::plain(server.address()).await;
    let key = [("authorization", "Bearer secret-key-1")];
    for _ in 0..3 {
        let refused = http2.send(EMBED, &[], texts(20)).await.expect("an answer");
        assert_eq!(refused.status, 401, "{}", refused.text());
        let answer = http2.send(EMBED, &key, texts(20)).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_client_chooses_by_alpn() {
    let pair = pair();
    let server = start(over_tls(&pair), &trusting(&pair, &[])).await;
    let address = server.address();
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let config = trusting(&pair, offered);
        let stream = TcpStream::connect(address).await.expect("a connection");
        let stream = TlsConnector::from(Arc::clone(&config)).connect(name(), stream).await;
        let stream = stream.expect("a handshake");
        let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(protocol.as_deref(), chosen.map(str::as_bytes), "{offered:?}");
        if chosen == Some("h2") {
            let mut http2 = Http2::over(stream).await;
            let answer = http2.send(EMBED, &[], texts(2)).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
        } else {
            let mut connection = Connection::tls(address, &config).await.expect("a connection");
            let answer = connection.send(EMBED, &[], texts(2)).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_and_head_are_answered_where_they_make_sense() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let mut connection = Connection::plain(server.address()).await.expect("a connection");
    for (path, allowed) in [
        ("/embed", "POST"),
        ("/v2/models/m", "GET,HEAD"),
        ("/metrics", "GET,HEAD"),
        ("*", "GET,HEAD,POST,OPTIONS"),
    ] {
        let answer = connection.send(("OPTIONS", path), &[], "").await.expect("an answer");
        assert_eq!((answer.status, answer.header("allow")), (204, Some(allowed)), "{path}");
    }
    for path in ["/health", "/v2/health/ready", "/v2/models/m", "/metrics", "/info", "/v1/models"] {
        let answer = connection.send(("HEAD", path), &[], "").await.expect("an answer");
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
    }
    for call in [("HEAD", "/embed"), ("DELETE", "/embed"), ("HEAD", "/no-route")] {
        let answer = connection.send(call, &[], "").await.expect("an answer");
        assert!(matches!(answer.status, 404 | 405), "{call:?}: {}", answer.status);
    }
    server.stop().await;
}
