//! How long connections stay open between two requests.

use std::time::{Duration, Instant};

use e2e::{fixtures::model, server::Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const IDLE: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_after_its_time() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let server = builder.argument("--idle-timeout=2").start().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut buffer = [0; 4096];
    let mut idle_since = Instant::now();
    // A request begins the time again.
    for pause in [Duration::ZERO, IDLE / 2] {
        tokio::time::sleep(pause).await;
        stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let bytes = stream.read(&mut buffer).await.unwrap();
        let answer = String::from_utf8_lossy(&buffer[..bytes]).to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 200"), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
        idle_since = Instant::now();
    }
    let end =
        tokio::time::timeout(SOON, stream.read(&mut buffer)).await.expect("a closed connection");
    assert_eq!(end.unwrap(), 0);
    assert!(idle_since.elapsed() > IDLE.mul_f32(0.8), "{:?}", idle_since.elapsed());
    server.stop().await;
}
