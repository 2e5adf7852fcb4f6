//! Exhausted file descriptors.

use std::{process::Command, time::Duration};

use e2e::{
    eventually,
    fixtures::model,
    processes::{self, Signal, cpu_ticks},
    server::Server,
};

use super::{NO_BODY, TIMEOUT, assert_serves, open};

/// In ticks of 10 ms. A busy loop would use 300 in three seconds.
const TICKS_MAX: u64 = 100;

async fn assert_mostly_idle(server: &Server) {
    let before = cpu_ticks(server.pid());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = cpu_ticks(server.pid()) - before;
    assert!(used < TICKS_MAX, "{used} ticks of CPU time in 3 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_leave_descriptors_for_workers_and_admin() {
    let builder = Server::builder().model("a", &model("tiny/a")).descriptors(160);
    let server = builder.start().await;
    let mut streams = Vec::new();
    for index in 0..300 {
        let bytes = if index % 2 == 0 { NO_BODY } else { b"" };
        streams.push(open(server.address(), bytes).await);
    }
    assert_mostly_idle(&server).await;
    let status = server.status().await;
    let restarts = status.restarts();
    processes::signal(status.pids()[0], Signal::SIGKILL);
    server.restarted(restarts + 1).await;
    drop(streams);
    assert_serves(server.address()).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accept_loop_waits_without_descriptors_and_recovers() {
    let server = Server::builder().model("a", &model("tiny/a")).start().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(open(server.address(), NO_BODY).await);
    }
    eventually("the connections are accepted", TIMEOUT, async || {
        (processes::open_files(server.pid()).len() > 35).then_some(())
    })
    .await;
    limit(&server, processes::open_files(server.pid()).len());
    for _ in 0..30 {
        streams.push(open(server.address(), NO_BODY).await);
    }
    assert_mostly_idle(&server).await;
    limit(&server, 4096);
    assert_serves(server.address()).await;
    drop(streams);
    server.stop().await;
}

/// Changes the descriptor limit of a running supervisor.
fn limit(server: &Server, descriptors: usize) {
    let pid = server.pid().to_string();
    let soft = format!("--nofile={descriptors}:");
    let status = Command::new("prlimit").args(["--pid", &pid, &soft]).status();
    assert!(status.expect("prlimit of util-linux").success());
}
