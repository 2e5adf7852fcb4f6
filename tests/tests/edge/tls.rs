//! TLS: certificates, their renewal, and clients that do not use TLS.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use e2e::{
    client::exchange, fixtures::model, home::Home, launch::Builder, notify::Notify,
    processes::Signal, server::Server,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tokio_rustls::TlsConnector;

use crate::{
    TIMEOUT,
    connection::{Connection, Pair, name, pair, trusting},
    logged,
};

const EMBED: (&str, &str) = ("POST", "/embed");
const TEXT: &str = r#"{"inputs": "a text"}"#;

fn write(home: &Home, certificate: &Pair, key: &Pair) {
    let write = |name: &str, content: String| fs::write(home.root().join(name), content);
    write("cert.pem", certificate.cert.pem()).expect("a file");
    write("key.pem", key.signing_key.serialize_pem()).expect("a file");
}

pub(crate) fn over_tls(pair: &Pair) -> Builder {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let home = builder.directories();
    write(&home, pair, pair);
    let path = |name: &str| home.root().join(name).to_str().expect("UTF-8").to_owned();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    builder.argument("--tls-cert").argument(&certificate).argument("--tls-key").argument(&key)
}

/// Starts a server. The harness's own readiness check does not use TLS.
pub(crate) async fn start(builder: Builder, config: &Arc<ClientConfig>) -> Server {
    let mut server = builder.spawn();
    let address = server.address();
    e2e::eventually("an answer over TLS", TIMEOUT, async || {
        assert!(server.runs(), "{}", server.stderr());
        let mut connection = Connection::tls(address, config).await.ok()?;
        let ready = connection.send(("GET", "/v2/health/ready"), &[], "").await.ok()?;
        (ready.status == 200).then_some(())
    })
    .await;
    server
}

async fn answers(address: SocketAddr, config: &Arc<ClientConfig>) -> bool {
    let Ok(mut connection) = Connection::tls(address, config).await else { return false };
    let answer = connection.send(EMBED, &[], TEXT).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.generation().map(|generation| generation > 0), Some(true));
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_swaps_the_certificate_and_keeps_connections() {
    let (first, second) = (pair(), pair());
    let builder = over_tls(&first);
    let home = builder.directories();
    let notify = Notify::bind(home.root());
    let (old, new) = (trusting(&first, &["spdy/3.1", "http/1.1"]), trusting(&second, &[]));
    let server = start(builder.variable("NOTIFY_SOCKET", notify.path()), &old).await;
    let address = server.address();
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let stream = TlsConnector::from(Arc::clone(&old)).connect(name(), stream).await;
    assert_eq!(stream.expect("a handshake").get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let mut kept = Connection::tls(address, &old).await.expect("a handshake");
    assert_eq!(kept.send(EMBED, &[], TEXT).await.expect("an answer").status, 200);
    assert!(answers(address, &old).await && !answers(address, &new).await);

    write(&home, &second, &second);
    server.signal(Signal::SIGHUP);
    logged(&server, "reloaded the TLS certificate", 1).await;
    // `old` has a session from before and must not resume it.
    assert!(answers(address, &new).await && !answers(address, &old).await);
    assert_eq!(kept.send(EMBED, &[], TEXT).await.expect("an answer").status, 200);

    // Wait for the end of the previous reload.
    let (reloading, _) = notify.next("RELOADING=1", 0).await;
    let (index, _) = notify.next("READY=1", reloading).await;
    write(&home, &first, &second);
    server.signal(Signal::SIGHUP);
    logged(&server, "reload refused", 1).await;
    assert!(answers(address, &new).await && !answers(address, &old).await);
    assert_eq!(kept.send(EMBED, &[], TEXT).await.expect("an answer").status, 200);
    let (_, ready) = notify.next("READY=1", index + 1).await;
    let status = ready.value("STATUS").unwrap_or_default();
    assert!(status.contains("the key does not match the certificate"), "{status}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_tls_are_closed_and_do_not_block_others() {
    let pair = pair();
    let config = trusting(&pair, &[]);
    let server = start(over_tls(&pair), &config).await;
    let address = server.address();
    let plain = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    // Silent from the start, in the middle of a ClientHello, and with an endless record.
    let silent: Vec<_> = [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01"]
        .into_iter()
        .map(|bytes| {
            tokio::spawn(async move {
                let start = Instant::now();
                let raw = exchange(address, bytes, Duration::from_secs(20)).await;
                (raw.expect("a connection"), start.elapsed())
            })
        })
        .collect();
    for _ in 0..20 {
        let raw = exchange(address, plain, Duration::from_secs(5)).await.expect("a connection");
        assert!(raw.closed && raw.status().is_none(), "{raw:?}");
        assert!(answers(address, &config).await);
    }
    let mut connection = Connection::tls(address, &config).await.expect("a connection");
    let metrics = connection.send(("GET", "/metrics"), &[], "").await.expect("an answer").text();
    assert!(metrics.contains("onnxd_requests_malformed_total{reason=\"invalid\"} 20"), "{metrics}");
    for silent in silent {
        while !silent.is_finished() {
            assert!(answers(address, &config).await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (raw, took) = silent.await.expect("no panic");
        assert!(raw.closed && raw.status().is_none(), "{raw:?}");
        assert!(took >= Duration::from_secs(9), "closed after {took:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_completes_handshakes_and_drops_silent_connections() {
    let pair = pair();
    let config = trusting(&pair, &[]);
    let mut server = start(over_tls(&pair), &config).await;
    let address = server.address();
    let silent = TcpStream::connect(address).expect("a connection");
    let mut tls = ClientConnection::new(Arc::clone(&config), name()).expect("a client");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("a ClientHello");
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(&hello[..10]).expect("half of it");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    server.signal(Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let answer = tokio::task::spawn_blocking(move || {
        stream.write_all(&hello[10..]).expect("the other half");
        let mut stream = StreamOwned::new(tls, stream);
        let length = TEXT.len();
        write!(stream, "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{TEXT}")
            .expect("a request");
        let mut answer = String::new();
        // The connection must be closed cleanly.
        stream.read_to_string(&mut answer).map(|_| answer)
    });
    let answer = answer.await.expect("no panic").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    let exit = server.wait().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    drop(silent);
}

/// Returns a certificate for `localhost` that expires at the start of a year.
fn expiring(year: i32) -> Pair {
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let signing_key = KeyPair::generate().expect("a key");
    let cert = params.self_signed(&signing_key).expect("a certificate");
    Pair { cert, signing_key }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_name_the_expiry_of_the_served_certificate() {
    let (first, second) = (expiring(2040), expiring(2060));
    let builder = over_tls(&first);
    let home = builder.directories();
    let (old, new) = (trusting(&first, &[]), trusting(&second, &[]));
    let server = start(builder, &old).await;
    let address = server.address();
    let expiry = async |config| {
        let mut connection = Connection::tls(address, config).await.ok()?;
        let answer = connection.send(("GET", "/metrics"), &[], "").await.expect("an answer");
        let name = "onnxd_certificate_expiry_timestamp_seconds ";
        answer.text().lines().find_map(|line| Some(line.strip_prefix(name)?.to_owned()))
    };
    assert_eq!(expiry(&old).await.as_deref(), Some("2208988800"));
    write(&home, &second, &second);
    server.signal(Signal::SIGHUP);
    let renewed = e2e::eventually("the new certificate", TIMEOUT, async || expiry(&new).await);
    assert_eq!(renewed.await, "2840140800");
    server.stop().await;
}
