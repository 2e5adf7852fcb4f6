//! Many connections of the admin socket: more than there may be wait, and clients do not notice.

use std::time::Duration;

use e2e::{control::Control, fixtures::model, server::Server};
use tokio::net::UnixStream;

use crate::{PATIENCE, assert_serves};

/// What docs/limits.md says.
const CONNECTIONS: usize = 1024;

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_connection_too_many_waits_for_a_place_and_clients_are_served() {
    crate::raise_descriptors();
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let socket = server.home().admin_socket();
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        all.push(UnixStream::connect(&socket).await.expect("a connection"));
    }
    let control = Control::of(&server);
    let mut waiting = std::pin::pin!(control.status());
    let early = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(early.is_err(), "there is no place for it");
    assert_serves(server.address()).await;
    all.pop();
    let status = tokio::time::timeout(PATIENCE, waiting).await.expect("there is a place");
    assert_eq!(status.models.len(), 1);
    drop(all);
    server.stop().await;
}
