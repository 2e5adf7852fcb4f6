//! Models that are unloaded and loaded again while the server is running.

use std::{sync::Arc, time::Duration};

use e2e::{
    admin::Status,
    corpus::Corpus,
    eventually,
    fixtures::model,
    history::UnloadedPeriod,
    home::Home,
    load::Load,
    processes::{self, Signal},
    server::Server,
};
use serde_json::json;

use crate::{embed, served, tiny};

const TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_under_load_loses_no_request_or_generation() {
    let server = Server::builder().model("one", &tiny("a")).model("two", &tiny("b")).start().await;
    let mut one = Load::start(&server, "one", Corpus::tiny(), "a", 4).await;
    let two = Load::start(&server, "two", Corpus::tiny(), "b", 4).await;
    for (generation, content) in [(2, "b"), (3, "b"), (4, "a")] {
        one.more(20).await;
        let unload = one.now();
        let unloaded = server.unload("one").await.unwrap();
        let unload = (unload, one.now());
        assert_eq!((unloaded.model.as_str(), unloaded.generation), ("one", generation - 1));
        let status = server.status().await;
        let model_status = status.model("one");
        assert_eq!((model_status.state.as_str(), model_status.generation), ("unloaded", 0));
        for worker in &status.workers {
            assert_eq!(worker.generations["one"], 0, "the model is dropped when the call returns");
        }
        two.more(20).await;
        let load = one.now();
        let committed = one.update(&server, &tiny(content), content).await.unwrap();
        assert_eq!((committed.generation, committed.previous_generation), (generation, 0));
        one.absent(UnloadedPeriod { unload, load: (load, one.now()) });
    }
    one.more(20).await;
    assert_eq!(one.finish().await.generations, 4);
    assert_eq!(two.finish().await.generations, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_answers_accepted_requests_and_refuses_new_ones() {
    for ending in [Signal::SIGCONT, Signal::SIGKILL] {
        let server = Server::builder()
            .tolerates_stopped_workers()
            .workers(1)
            .model("m", &tiny("a"))
            .start()
            .await;
        let expected = embed(&server, "a").await;
        let worker = server.settled().await.workers[0].pid.unwrap();
        // While stopped, the worker answers nothing.
        processes::signal(worker, Signal::SIGSTOP);
        let mut client = server.client().await;
        let accepted = tokio::spawn(async move {
            client.post("/embed", &json!({"inputs": "a"})).await.expect("an answer")
        });
        let is_busy = async || (server.status().await.workers[0].state == "busy").then_some(());
        eventually("the request is accepted", TIMEOUT, is_busy).await;
        let server = Arc::new(server);
        let unloading = {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.unload("m").await })
        };
        let closed = async || (server.status().await.model("m").state == "unloading").then_some(());
        eventually("the unload has started", TIMEOUT, closed).await;
        let late = server.client().await.post("/embed", &json!({"inputs": "a"})).await.unwrap();
        assert_eq!(late.status, 404, "{}", late.text());
        assert!(late.text().contains("onnxd update m"), "{}", late.text());
        assert!(!accepted.is_finished() && !unloading.is_finished());
        processes::signal(worker, ending);
        let answered = accepted.await.unwrap();
        assert_eq!((answered.embeddings().remove(0), answered.generation()), (expected, Some(1)));
        assert_eq!(unloading.await.unwrap().unwrap().generation, 1);
        Arc::into_inner(server).unwrap().stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_releases_worker_memory() {
    let builder = Server::builder().argument("--preload=small").model("small", &tiny("a"));
    let server = builder.model("large", &model("minilm")).start().await;
    let long = vec!["word ".repeat(200); 16];
    let embed = async |model: &str| {
        let body = json!({"inputs": long, "model": model});
        server.client().await.post("/embed", &body).await.unwrap().status
    };
    let memory = |status: &Status| -> u64 {
        status.workers.iter().map(|worker| worker.memory_bytes.unwrap()).sum()
    };
    assert_eq!(embed("small").await, 200);
    let without = memory(&server.settled().await);
    for _ in 0..4 {
        assert_eq!(embed("large").await, 200);
    }
    let with = memory(&server.settled().await);
    // Weights are shared and not counted here; this is memory from inference.
    assert!(with > without + 15_000_000, "{without} → {with} bytes");
    server.unload("large").await.unwrap();
    // Memory is freed in the background, and the allocator keeps some of it.
    eventually("most of the memory is released", TIMEOUT, async || {
        let after = memory(&server.status().await);
        (after < without + (with - without) / 3).then_some(())
    })
    .await;
    assert_eq!(embed("large").await, 404);
    server.update("large", None).await.unwrap();
    assert_eq!(embed("large").await, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unload_lasts_until_an_update_or_a_restart() {
    let home = Arc::new(Home::new());
    let start = || Server::builder().home(&home).model("m", &tiny("a")).start();
    let server = start().await;
    server.update("m", Some(&tiny("b"))).await.unwrap();
    let output = server.cli(&["unload", "m"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("m: generation 2 unloaded, "), "{text}");
    assert_eq!(server.unload("m").await.unwrap().generation, 0, "a second unload succeeds");
    let unknown = server.unload("nobody").await.unwrap_err();
    assert_eq!(unknown.kind, "not_found", "{unknown:?}");
    for _ in 0..2 {
        let body = json!({"input": "a", "model": "m"});
        let response = server.client().await.post("/v1/embeddings", &body).await.unwrap();
        assert_eq!(response.status, 404);
        assert_eq!(response.json()["error"]["code"], "model_not_found", "{}", response.text());
    }
    assert!(server.answers_ready().await, "an unload does not affect readiness");
    // A worker that starts now must not load the model.
    let pid = server.worker_pids().await[0];
    processes::signal(pid, Signal::SIGKILL);
    server.restarted(1).await;
    let table = String::from_utf8(server.cli(&["status"]).await.stdout).unwrap();
    assert!(table.contains("unloaded"), "{table}");
    // A refused update leaves the model unloaded.
    let refused = server.update("m", Some(&tiny("nan"))).await.unwrap_err();
    assert!(refused.message.contains("finite"), "{refused:?}");
    assert_eq!(server.status().await.model("m").state, "unloaded");
    server.stop().await;

    let server = start().await;
    assert_eq!(served(&server, "m").await.0, 2, "the last committed generation");
    server.unload("m").await.unwrap();
    let (first, second) = tokio::join!(server.update("m", None), server.update("m", None));
    let mut numbers = vec![first.unwrap().generation, second.unwrap().generation];
    numbers.sort_unstable();
    assert_eq!(numbers, [3, 4]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_workers_load_only_what_is_committed() {
    let server = Server::builder().model("one", &tiny("a")).model("two", &tiny("b")).start().await;
    let two = Load::start(&server, "two", Corpus::tiny(), "b", 2).await;
    let mut last = 1;
    for round in 0..6 {
        let pids = server.worker_pids().await;
        processes::signal(pids[round % pids.len()], Signal::SIGKILL);
        // The other worker drops the model; the restarting one may already be loading it.
        tokio::time::sleep(Duration::from_millis(20 * round as u64)).await;
        server.unload("one").await.unwrap();
        let status = server.settled().await;
        for worker in &status.workers {
            assert_eq!(worker.generations["one"], 0, "{status:?}");
        }
        let committed = server.update("one", None).await.unwrap();
        assert_eq!(committed.generation, last + 1);
        last = committed.generation;
        server.settled().await;
    }
    two.more(20).await;
    two.finish().await;
    server.stop().await;
}
