//! SIGKILL during a succession: either a server keeps serving, or nothing is left behind.

use std::time::Duration;

use e2e::{
    fixtures::model,
    processes::{self, Process, Signal},
    server::Server,
};
use serde_json::json;

use crate::{Succession, TIMEOUT};

/// Delays in milliseconds between the start of a successor and the kill.
const KILL_DELAYS_MS: [u64; 4] = [0, 30, 120, 400];

async fn successor(line: &Succession, from: usize) -> Process {
    line.wait_for_log("successor started", from).await;
    let log = line.server.stderr();
    let (_, after) = log[from..].split_once("successor started").expect("a line");
    let (_, after) = after.split_once("pid=").expect("a pid");
    let pid = after.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a pid");
    Process::find(pid).expect("the process is running")
}

async fn serves(line: &Succession) {
    let answer = line.server.client().await.post("/embed", &json!({"inputs": "a"})).await;
    assert_eq!(answer.map(|answer| answer.status), Ok(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_takes_over_if_its_predecessor_is_killed() {
    for moment in KILL_DELAYS_MS {
        let line = Succession::start(Server::builder().model("m", &model("tiny/a"))).await;
        let from = line.server.stderr().len();
        let first = line.process();
        first.signal(Signal::SIGUSR2);
        let successor = successor(&line, from).await;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        first.signal(Signal::SIGKILL);
        e2e::eventually("the successor has the lock", TIMEOUT, async || {
            (line.pid() == successor.pid).then_some(())
        })
        .await;
        serves(&line).await;
        e2e::eventually("the admin socket", TIMEOUT, async || {
            line.answers_admin().await.then_some(())
        })
        .await;
        let from = model("tiny/b");
        let updated = line.server.update("m", Some(&from)).await.expect("the update is committed");
        assert_eq!(updated.generation, 2);
        line.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_successor_leaves_its_predecessor_serving() {
    let line = Succession::start(Server::builder().model("m", &model("tiny/a"))).await;
    for moment in [0, 30, 60] {
        let from = line.server.stderr().len();
        let pid = line.pid();
        line.signal(Signal::SIGUSR2);
        let successor = successor(&line, from).await;
        tokio::time::sleep(Duration::from_millis(moment)).await;
        let workers = processes::descendants(successor.pid);
        successor.signal(Signal::SIGKILL);
        line.wait_for_log("succession failed", from).await;
        assert!(e2e::soon(Duration::from_secs(2), || !workers.iter().any(|it| it.runs())));
        assert_eq!(line.pid(), pid);
        serves(&line).await;
        assert!(line.answers_admin().await);
    }
    line.stop().await;
}
