//! A log without a reader blocks nothing.

use std::fs::{self, File};

use e2e::{
    eventually,
    fixtures::model,
    processes::{self, Signal},
    server::Server,
};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::json;

use super::{TIMEOUT, assert_serves, metric};

#[tokio::test(flavor = "multi_thread")]
async fn an_unread_log_blocks_nothing_and_dropped_lines_are_counted() {
    let builder = Server::builder().model("a", &model("tiny/a")).variable("ONNXD_LOG", "trace");
    let pipe = builder.directories().root().join("stderr");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    // Keeps the pipe open and never reads.
    let reader = File::options().read(true).write(true).open(&pipe).expect("a reader");
    let server = builder.start().await;
    let mut client = server.client().await;
    eventually("lines are dropped", TIMEOUT, async || {
        let answer = client.post("/embed", &json!({"inputs": "hello"})).await;
        assert_eq!(answer.expect("an answer").status, 200);
        (metric(&mut client, "onnxd_log_lines_dropped_total").await > 0.0).then_some(())
    })
    .await;
    let status = server.status().await;
    let restarts = status.restarts();
    processes::signal(status.pids()[0], Signal::SIGKILL);
    server.restarted(restarts + 1).await;
    // Now the pipe has no reader at all.
    drop(reader);
    fs::remove_file(&pipe).expect("the pipe");
    fs::write(&pipe, "").expect("a file in place of the log");
    assert_serves(server.address()).await;
    server.stop().await;
}
