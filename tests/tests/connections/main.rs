//! Others are served despite many or slow connections, exhausted descriptors, and unread logs.

mod admin;
mod crowd;
mod descriptors;
mod idle;
mod logs;

use std::{net::SocketAddr, time::Duration};

use e2e::{client::Client, exposition::Exposition};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

const TIMEOUT: Duration = Duration::from_secs(60);
/// The start of a request whose body never comes.
const NO_BODY: &[u8] = b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n{";

/// Raises the soft limit of this process to the hard limit, and returns it.
fn raise_descriptors() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the hard limit is allowed");
    hard
}

async fn metric(client: &mut Client, name: &str) -> f64 {
    let text = client.get("/metrics").await.expect("an answer").text();
    Exposition::parse(&text).expect("an exposition").value(name, &[])
}

/// Opens a connection and sends these bytes.
async fn open(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("the bytes are sent");
    stream
}

async fn assert_serves(address: SocketAddr) {
    let request = async {
        let mut client = Client::connect(address).await.expect("a connection");
        client.post("/embed", &json!({"inputs": "hello"})).await.expect("an answer")
    };
    let answer = tokio::time::timeout(TIMEOUT, request).await.expect("in time");
    assert_eq!(answer.status, 200, "{}", answer.text());
}
