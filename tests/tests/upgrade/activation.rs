//! A socket that systemd listens on: nobody is refused while onnxd is started anew.

use std::{net::TcpListener, process::Command};

use e2e::{client::Client, fixtures, fixtures::model, server::Server};
use serde_json::json;

use crate::Line;

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_passed_is_served_and_requests_wait_in_it_for_the_next_start() {
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
        // Nobody serves now, and nobody is refused.
        asking = Some(tokio::spawn(async move {
            let mut client = Client::connect(address).await.ok()?;
            Some(client.post("/embed", &json!({"inputs": "a"})).await.ok()?.status)
        }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_serves_where_systemd_listens_whatever_the_flag_says() {
    let socket = TcpListener::bind(e2e::launch::free_address()).expect("a socket");
    let address = socket.local_addr().expect("an address");
    let builder = Server::builder().model("m", &model("tiny/a")).activated(&socket);
    let home = builder.directories();
    // Another address than the socket's, which is not used.
    let server = builder.spawn_at(e2e::launch::free_address());
    let line = Line { server, home };
    line.says("ready listen=", 0).await;
    for _ in 0..2 {
        let asking = async {
            let mut client = Client::connect(address).await.expect("a connection");
            client.post("/embed", &json!({"inputs": "a"})).await.map(|answer| answer.status)
        };
        let answer = tokio::time::timeout(crate::PATIENCE, asking).await;
        assert_eq!(answer.expect("somebody accepts"), Ok(200));
        line.succeed().await;
    }
    line.stop().await;
}

#[test]
fn more_sockets_than_anybody_passes_are_refused_by_their_number() {
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
    assert!(!log.contains("at most"), "they are not there, or too many of a kind: {log}");
}
