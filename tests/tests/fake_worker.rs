//! A worker that breaks the protocol is ended and replaced; what it had is answered by another,
//! and nobody notices. The worker that does so is `tests/src/bin/fake_worker/`.

use std::time::Duration;

use e2e::{
    corpus::Corpus, eventually, fake::Order, fixtures::model, launch::Builder, load::Load,
    notify::Notify, processes, server::Server,
};
use futures_util::future::join_all;
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);
/// Far more than a supervisor needs, and far less than what a lie of a length could cost.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Servers at once.
const AT_ONCE: usize = 3;

/// All after which the worker is replaced.
const WRONG: [&str; 26] = [
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

/// Describes a server whose first worker does something wrong once.
fn builder(wrong: &str) -> Builder {
    let builder = Server::builder().worker_binary(env!("CARGO_BIN_EXE_fake_worker").as_ref());
    Order::give(&builder.directories(), wrong);
    builder.model("m", &model("tiny/a"))
}

/// Such a server under load.
async fn server(wrong: &str) -> (Server, Load) {
    under_load(builder(wrong).start().await).await
}

async fn under_load(server: Server) -> (Server, Load) {
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 3).await;
    load.join_with_lists_of(&server, 12).await;
    (server, load)
}

/// How the fake worker's misbehaving went, once it has.
async fn done(server: &Server, wrong: &str) -> String {
    eventually(wrong, PATIENCE, async || Order::done(server.home())).await
}

async fn is_replaced_after(wrong: &str) {
    let server = builder(wrong).start().await;
    let open_before = processes::open_files(server.pid()).len();
    let (server, load) = under_load(server).await;
    let status = server.restarted(1).await;
    load.more(50).await;
    // No request failed, and none was answered wrongly.
    load.finish().await;
    assert_eq!((status.workers[0].restarts, status.workers[1].restarts), (1, 0), "{wrong}");
    let peak = processes::peak_memory_bytes(server.pid());
    assert!(peak < MEMORY_BYTES_MAX, "{wrong}: {peak} bytes");
    eventually("nothing of it is left", PATIENCE, async || {
        let open = processes::open_files(server.pid()).len();
        let clean = processes::zombies(server.pid()).is_empty() && open <= open_before;
        clean.then_some(())
    })
    .await;
    assert_eq!(server.status().await.restarts(), 1, "{wrong}: and it is replaced once");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_worker_says_wrong_it_is_replaced_and_no_request_fails() {
    for some in WRONG.chunks(AT_ONCE) {
        join_all(some.iter().map(|wrong| is_replaced_after(wrong))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_whole_is_used_though_its_worker_has_ended() {
    for _ in 0..3 {
        join_all((0..AT_ONCE).map(|_| uses_the_answer_of_who_has_ended())).await;
    }
}

async fn uses_the_answer_of_who_has_ended() {
    let wrong = "answers and ends";
    let builder = builder(wrong).workers(1);
    let server = builder.start().await;
    let response = server.client().await.post("/embed", &json!({"inputs": "a"})).await;
    assert_eq!(response.map(|response| response.status), Ok(200));
    done(&server, wrong).await;
    let status = server.restarted(1).await;
    assert_eq!(status.counter("items_retried_total"), 0, "it was computed twice");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_build_is_not_used_and_others_serve() {
    let wrong = "hello of another build";
    let (server, load) = server(wrong).await;
    load.more(50).await;
    load.finish().await;
    let status = server.status().await;
    assert_eq!(status.workers[0].state, "failed");
    assert_eq!(status.workers[1].state, "ready");
    assert!(server.stderr().contains("from another build"), "{}", server.stderr());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_writes_one_byte_at_a_time_is_understood() {
    let wrong = "one byte at a time";
    let (server, load) = server(wrong).await;
    load.more(50).await;
    load.finish().await;
    assert_eq!(server.status().await.restarts(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_cannot_write_to_the_control_page() {
    let wrong = "writes to the control page";
    let (server, load) = server(wrong).await;
    assert_eq!(done(&server, wrong).await, "refused");
    load.more(50).await;
    load.finish().await;
    assert_eq!(server.status().await.restarts(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_that_leaves_a_ping_unanswered_is_replaced() {
    let wrong = "leaves a ping unanswered";
    let builder = builder(wrong).argument("--start-timeout=10");
    let notify = Notify::bind(builder.directories().root());
    // Who feeds the watchdog asks all workers for a sign of life before.
    let builder = builder.variable("NOTIFY_SOCKET", notify.path());
    let server = builder.variable("WATCHDOG_USEC", "1000000").start().await;
    assert_eq!(done(&server, wrong).await, "done");
    let status = server.restarted(1).await;
    assert_eq!((status.workers[0].restarts, status.workers[1].restarts), (1, 0));
    assert!(server.stderr().contains("worker hangs, killing it"), "{}", server.stderr());
    server.stop().await;
}
