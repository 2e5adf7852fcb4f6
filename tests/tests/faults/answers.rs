//! An answer that a worker wrote before it died is used.

use std::time::Duration;

use e2e::{
    eventually,
    fixtures::model,
    processes::{self, Signal, cpu_ticks, thread_status},
    server::Server,
};
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until a process is idle and has written its output.
async fn becomes_idle(pid: i32) {
    let mut before = 0;
    eventually("the process becomes idle", TIMEOUT, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let ticks = cpu_ticks(pid);
        let is_still = std::mem::replace(&mut before, ticks) == ticks;
        // On a busy machine, a runnable thread may get no CPU time.
        let runs = thread_status(pid, "State").iter().any(|state| state.starts_with('R'));
        (is_still && !runs).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_of_a_killed_worker_is_used_and_not_recomputed() {
    // The run is long enough to stop the supervisor before the answer arrives.
    let server =
        Server::builder().workers(1).model("r", &model("tiny/tensor_rounds")).start().await;
    for _ in 0..6 {
        let before = server.settled().await;
        let pid = before.pids()[0];
        let mut client = server.client().await;
        let body = json!({"inputs": [
            {"name": "rounds", "datatype": "INT64", "shape": [1], "data": [300_000]}]});
        let pending = tokio::spawn(async move { client.post("/v2/models/r/infer", &body).await });
        let idle = cpu_ticks(pid);
        eventually("the worker computes", TIMEOUT, async || {
            (cpu_ticks(pid) > idle + 2).then_some(())
        })
        .await;
        server.signal(Signal::SIGSTOP);
        becomes_idle(pid).await;
        processes::signal(pid, Signal::SIGKILL);
        server.signal(Signal::SIGCONT);
        assert_eq!(pending.await.unwrap().map(|response| response.status), Ok(200));
        server.restarted(before.restarts() + 1).await;
    }
    let status = server.settled().await;
    assert_eq!(status.counter("items_retried_total"), 0, "{:?}", status.counters);
    server.stop().await;
}
