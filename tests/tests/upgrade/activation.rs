//! Socket activation: no connection is refused while onnxd restarts.

use std::{net::TcpListener, process::Command};

use e2e::{client::Client, fixtures, fixtures::model, server::Server};
use serde_json::json;

use crate::Line;

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_in_a_passed_socket_for_the_next_start() {
    let socket = TcpListener::bind(e2e::launch::free_address()).expect("a socket");
    let address = socket.local_addr().expect("an address");
    let builder = || Server::builder().model("m", &model("tiny/a"));
    let mut asking = None;
    for _ in 0..2 {
        let mut server = builder().activated(&socket).spawn_at(address);
        server.ready().await.expect("ready");
        if let Some(asking) = asking.take() {
            let asking: tokio::task::JoinHandle<Option<u16>> = asking;
            assert_eq!(asking.await.expect("no panic"), Some(200));
        }
        server.stop().await;
        // No server is running now, but connections are still accepted by the socket.
        asking = Some(tokio::spawn(async move {
            let mut client = Client::connect(address).await.ok()?;
            Some(client.post("/embed", &json!({"inputs": "a"})).await.ok()?.status)
        }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_serves_the_passed_socket_despite_the_flag() {
    let socket = TcpListener::bind(e2e::launch::free_address()).expect("a socket");
    let address = socket.local_addr().expect("an address");
    let builder = Server::builder().model("m", &model("tiny/a")).activated(&socket);
    let home = builder.directories();
    // This address differs from the socket's and must not be used.
    let server = builder.spawn_at(e2e::launch::free_address());
    let line = Line { server, home };
    line.says("ready listen=", 0).await;
    for _ in 0..2 {
        let asking = async {
            let mut client = Client::connect(address).await.expect("a connection");
            client.post("/embed", &json!({"inputs": "a"})).await.map(|answer| answer.status)
        };
        let answer = tokio::time::timeout(crate::PATIENCE, asking).await;
        assert_eq!(answer.expect("the connection is accepted"), Ok(200));
        line.succeed().await;
    }
    line.stop().await;
}

#[test]
fn too_many_passed_sockets_are_refused_by_number() {
    let ends = |count: &str| {
        let command = format!("export LISTEN_PID=$$ LISTEN_FDS={count}; exec \"$0\" serve");
        let output = Command::new("sh").args(["-c", &command]).arg(fixtures::onnxd()).output();
        let output = output.expect("sh");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, log) = ends("17");
    assert_eq!(code, Some(78), "{log}");
    assert!(log.contains("LISTEN_FDS is 17; at most 16 are taken"), "{log}");
    let (code, log) = ends("16");
    assert_eq!(code, Some(78), "{log}");
    assert!(!log.contains("at most"), "the sockets are missing or duplicates: {log}");
}
