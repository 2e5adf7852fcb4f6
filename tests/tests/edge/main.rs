//! Checks before routing: API keys, CORS and TLS.

mod configuration;
mod connection;
mod cors;
mod http2;
mod http2_memory;
mod keys;
mod requests;
mod tls;

use std::{fs, path::PathBuf, time::Duration};

use e2e::{home::Home, server::Server};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Writes a file into a server's home.
fn file(home: &Home, name: &str, content: &str) -> PathBuf {
    let path = home.root().join(name);
    fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// Waits until the log contains `what` at least `times` times.
async fn logged(server: &Server, what: &str, times: usize) {
    e2e::eventually(what, TIMEOUT, async || {
        (server.stderr().matches(what).count() >= times).then_some(())
    })
    .await;
}
