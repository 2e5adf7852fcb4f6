//! Excess admin connections wait, and clients are not affected.

use std::time::Duration;

use e2e::{control::Control, fixtures::model, server::Server};
use tokio::net::UnixStream;

use crate::{TIMEOUT, assert_serves};

/// The limit in docs/limits.md.
const CONNECTIONS: usize = 1024;

#[tokio::test(flavor = "multi_thread")]
async fn excess_admin_connections_wait_and_clients_are_served() {
    crate::raise_descriptors();
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let socket = server.home().admin_socket();
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        all.push(UnixStream::connect(&socket).await.expect("a connection"));
    }
    let control = Control::new(&server);
    let mut waiting = std::pin::pin!(control.status());
    let early = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(early.is_err(), "all connection slots are taken");
    assert_serves(server.address()).await;
    all.pop();
    let status = tokio::time::timeout(TIMEOUT, waiting).await.expect("a slot is free");
    assert_eq!(status.models.len(), 1);
    drop(all);
    server.stop().await;
}
