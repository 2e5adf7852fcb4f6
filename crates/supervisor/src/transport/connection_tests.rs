use std::net::Ipv4Addr;

use axum::routing::get;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::transport::{connection::*, slots::ConnectionSlots};

const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

#[tokio::test(start_paused = true)]
async fn connection_idle_for_too_long_is_closed() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let (_drain, drained) = watch::channel(false);
    let connection = Connection {
        protocol: Protocol::Http1,
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
