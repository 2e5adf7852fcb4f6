//! A worker that violates the protocol is killed and replaced. Another worker answers its requests,
//! and no client notices. `tests/src/bin/fake_worker/` is the worker that misbehaves.

use std::time::Duration;

use e2e::{
    corpus::Corpus, eventually, fake::Order, fixtures::model, launch::Builder, load::Load,
    notify::Notify, processes, server::Server,
};
use futures_util::future::join_all;
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(60);
/// Far more than a supervisor needs, and far less than a false length could make it allocate.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Number of concurrent servers.
const CONCURRENT_SERVERS: usize = 3;

/// All faults that cause the worker to be replaced.
const FAULTS: [&str; 26] = [
    "bad magic",
    "another version",
    "wrong direction",
    "control length over the limit",
    "payload length over the limit",
    "payload that never comes",
    "half a frame",
    "half a header",
    "trailing bytes",
    "no message",
    "answers twice",
    "answers half of a group and ends",
    "ends without an answer",
    "ends before it is ready",
    "rejects what it was not given",
    "loads a model that is not served",
    "fails to load what is not served",
    "flood",
    "unknown request",
    "an item that does not exist",
    "an item far off",
    "fewer bytes than a row",
    "more bytes than it says",
    "sizes that overflow",
    "a generation never issued",
    "generation zero",
];

/// Configures a server whose first worker misbehaves once.
fn builder(fault: &str) -> Builder {
    let builder = Server::builder().worker_binary(env!("CARGO_BIN_EXE_fake_worker").as_ref());
    Order::request(&builder.directories(), fault);
    builder.model("m", &model("tiny/a"))
}

/// Starts such a server under load.
async fn server(fault: &str) -> (Server, Load) {
    under_load(builder(fault).start().await).await
}

async fn under_load(server: Server) -> (Server, Load) {
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 3).await;
    load.join_with_lists(&server, 12).await;
    (server, load)
}

/// Waits until the fake worker has misbehaved and returns its result.
async fn done(server: &Server, fault: &str) -> String {
    eventually(fault, TIMEOUT, async || Order::done(server.home())).await
}

async fn is_replaced_after(fault: &str) {
    let server = builder(fault).start().await;
    let open_before = processes::open_files(server.pid()).len();
    let (server, load) = under_load(server).await;
    let status = server.restarted(1).await;
    load.more(50).await;
    // No request failed or got a wrong answer.
    load.finish().await;
    assert_eq!((status.workers[0].restarts, status.workers[1].restarts), (1, 0), "{fault}");
    let peak = processes::peak_memory_bytes(server.pid());
    assert!(peak < MEMORY_BYTES_MAX, "{fault}: {peak} bytes");
    eventually("descriptors and zombies are cleaned up", TIMEOUT, async || {
        let open = processes::open_files(server.pid()).len();
        let clean = processes::zombies(server.pid()).is_empty() && open <= open_before;
        clean.then_some(())
    })
    .await;
    assert_eq!(server.status().await.restarts(), 1, "{fault}: the worker is replaced only once");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misbehaving_worker_is_replaced_and_no_request_fails() {
    for some in FAULTS.chunks(CONCURRENT_SERVERS) {
        join_all(some.iter().map(|fault| is_replaced_after(fault))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_answer_of_an_exited_worker_is_used() {
    for _ in 0..3 {
        join_all((0..CONCURRENT_SERVERS).map(|_| uses_the_answer_of_an_exited_worker())).await;
    }
}

async fn uses_the_answer_of_an_exited_worker() {
    let fault = "answers and ends";
    let builder = builder(fault).workers(1);
    let server = builder.start().await;
    let response = server.client().await.post("/embed", &json!({"inputs": "a"})).await;
    assert_eq!(response.map(|response| response.status), Ok(200));
    done(&server, fault).await;
    let status = server.restarted(1).await;
    assert_eq!(status.counter("items_retried_total"), 0, "the item was computed twice");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_build_is_not_used() {
    let fault = "hello of another build";
    let (server, load) = server(fault).await;
    load.more(50).await;
    load.finish().await;
    let status = server.status().await;
    assert_eq!(status.workers[0].state, "failed");
    assert_eq!(status.workers[1].state, "ready");
    assert!(server.stderr().contains("from another build"), "{}", server.stderr());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_write_one_byte_at_a_time() {
    let fault = "one byte at a time";
    let (server, load) = server(fault).await;
    load.more(50).await;
    load.finish().await;
    assert_eq!(server.status().await.restarts(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cannot_write_to_the_control_page() {
    let fault = "writes to the control page";
    let (server, load) = server(fault).await;
    assert_eq!(done(&server, fault).await, "refused");
    load.more(50).await;
    load.finish().await;
    assert_eq!(server.status().await.restarts(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_that_ignores_a_ping_is_replaced() {
    let fault = "leaves a ping unanswered";
    let builder = builder(fault).argument("--start-timeout=10");
    let notify = Notify::bind(builder.directories().root());
    // With a watchdog, the supervisor pings all workers before it notifies systemd.
    let builder = builder.variable("NOTIFY_SOCKET", notify.path());
    let server = builder.variable("WATCHDOG_USEC", "1000000").start().await;
    assert_eq!(done(&server, fault).await, "done");
    let status = server.restarted(1).await;
    assert_eq!((status.workers[0].restarts, status.workers[1].restarts), (1, 0));
    assert!(server.stderr().contains("killing unresponsive worker"), "{}", server.stderr());
    server.stop().await;
}
