//! Socket activation: no connection is refused while onnxd restarts.

use std::{net::TcpListener, process::Command, sync::Arc};

use e2e::{client::Client, fixtures, fixtures::model, home::Home, server::Server};
use serde_json::json;

use crate::Succession;

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_in_a_passed_socket_for_the_next_start() {
    let socket = TcpListener::bind(e2e::launch::free_address()).expect("a socket");
    let address = socket.local_addr().expect("an address");
    // A kept generation serves within a moment, so requests wait for it.
    let home = Arc::new(Home::new());
    let builder = || Server::builder().home(&home).model("m", &model("tiny/a"));
    let mut pending = None;
    for _ in 0..2 {
        let mut server = builder().activated(&socket).spawn_at(address);
        server.ready().await.expect("ready");
        if let Some(pending) = pending.take() {
            let pending: tokio::task::JoinHandle<Option<u16>> = pending;
            assert_eq!(pending.await.expect("no panic"), Some(200));
        }
        server.stop().await;
        // No server is running now, but connections are still accepted by the socket.
        pending = Some(tokio::spawn(async move {
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
    let line = Succession { server, home };
    line.wait_for_log("ready listen=", 0).await;
    for _ in 0..2 {
        let pending = async {
            let mut client = Client::connect(address).await.expect("a connection");
            client.post("/embed", &json!({"inputs": "a"})).await.map(|answer| answer.status)
        };
        let answer = tokio::time::timeout(crate::TIMEOUT, pending).await;
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
    assert!(log.contains("LISTEN_FDS: expected at most 16 sockets, got \"17\""), "{log}");
    let (code, log) = ends("16");
    assert_eq!(code, Some(78), "{log}");
    assert!(!log.contains("expected at most"), "the sockets are missing or duplicates: {log}");
}
