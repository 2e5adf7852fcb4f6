use std::net::Ipv4Addr;

use axum::routing::get;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::transport::{connection::*, slots::ConnectionSlots};

const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Returns a connection and the sender of its drain.
fn connection(protocol: Protocol) -> (Connection, watch::Sender<bool>) {
    let (drain, drained) = watch::channel(false);
    let connection = Connection {
        protocol,
        peer: Ipv4Addr::LOCALHOST.into(),
        metrics: Arc::default(),
        rewrite: |_| None,
        router: Router::new().route("/", get(async || "here")),
        tls: None,
        slot: Arc::new(ConnectionSlots::new(1).take().unwrap()),
        watcher: GracefulShutdown::new().watcher(),
        drain: drained,
        idle_timeout: IDLE_TIMEOUT,
    };
    (connection, drain)
}

#[tokio::test(start_paused = true)]
async fn connection_idle_for_too_long_is_closed() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let (connection, _drain) = connection(Protocol::Http1);
    tokio::spawn(connection.process_http1(server, false));
    let mut buffer = [0; 1024];
    // The second request comes just in time. Then the client stays idle.
    for pause in [Duration::ZERO, IDLE_TIMEOUT - Duration::from_secs(1)] {
        time::sleep(pause).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let count = client.read(&mut buffer).await.unwrap();
        assert!(buffer[..count].starts_with(b"HTTP/1.1 200"));
    }
    let start = Instant::now();
    assert_eq!(client.read(&mut buffer).await.unwrap(), 0);
    let idle = start.elapsed();
    assert!((IDLE_TIMEOUT..IDLE_TIMEOUT + SLOW_TICK).contains(&idle), "{idle:?}");
}

#[tokio::test(start_paused = true)]
async fn window_of_grpc_is_larger_than_that_of_the_public_port() {
    // The setting INITIAL_WINDOW_SIZE, and the frame that enlarges the window of the connection.
    const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];
    const WINDOW_UPDATE: [u8; 9] = [0, 0, 4, 8, 0, 0, 0, 0, 0];
    const DEFAULT: u32 = 65_535;
    for (protocol, expected) in
        [(Protocol::Any, 256 << 10), (Protocol::Http2 { may_idle: |_| false }, 1_u32 << 20)]
    {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let (connection, _drain) = connection(protocol);
        tokio::spawn(connection.process_http2(server, |_| false));
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let of_call = [&INITIAL_WINDOW_SIZE[..], &expected.to_be_bytes()].concat();
        let of_connection = [&WINDOW_UPDATE[..], &(expected - DEFAULT).to_be_bytes()].concat();
        let mut sent = Vec::new();
        for wanted in [of_call, of_connection] {
            while !sent.windows(wanted.len()).any(|bytes| bytes == wanted) {
                let read = time::timeout(Duration::from_secs(5), client.read_buf(&mut sent)).await;
                assert!(
                    read.is_ok_and(|read| read.is_ok_and(|count| count > 0)),
                    "{protocol:?}: {sent:?}"
                );
            }
        }
    }
}
