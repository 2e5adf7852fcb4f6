//! Clients with persistent connections and no retries, while models are updated and workers die.

use std::time::{Duration, Instant};

use e2e::{
    corpus::Corpus,
    fixtures::{model, replace_model, variant},
    load::Load,
    processes::{self, Signal},
    server::Server,
};
use serde_json::json;

use crate::copy_of;

const CLIENTS: usize = 8;
/// Low enough for slow machines, high enough to show that requests ran throughout.
const ANSWERED_MIN: usize = 1000;

/// When workers load a new version.
const LOADS: [&str; 2] = ["ahead", "lazy"];

/// An event in one round of the test below.
#[derive(Clone, Copy)]
enum Event {
    Update,
    Reload,
    WorkerDeath,
}

/// 20 updates, 5 reloads and 5 worker deaths, mixed.
fn script() -> impl Iterator<Item = Event> {
    use Event::{Reload, Update, WorkerDeath};
    [Update, Update, WorkerDeath, Update, Reload, Update].into_iter().cycle().take(30)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_models_change_and_workers_die() {
    let builder = Server::builder();
    let home = builder.directories();
    let source = copy_of(&home, "a");
    let server = builder.model("m", &source).start().await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", CLIENTS).await;
    let start = Instant::now();
    let pause = Duration::from_millis(600);
    let mut contents = ["b", "a"].into_iter().cycle();
    let mut loads = LOADS.into_iter().cycle();
    for (round, event) in script().enumerate() {
        match event {
            Event::Update => {
                let content = contents.next().unwrap();
                let from = model(&format!("tiny/{content}"));
                let how = ["--load", loads.next().unwrap()];
                let committed = load.update_with(&server, &from, content, &how).await.unwrap();
                assert_eq!(json!(committed.load), how[1]);
                assert_eq!(committed.generation, committed.previous_generation + 1);
            }
            Event::Reload => {
                let content = contents.next().unwrap();
                replace_model(&model(&format!("tiny/{content}")), &source);
                load.reload(&server, content).await;
            }
            Event::WorkerDeath => {
                let pids = server.worker_pids().await;
                processes::signal(pids[round % pids.len()], Signal::SIGKILL);
            }
        }
        load.more(CLIENTS).await;
        let due = pause * u32::try_from(round + 1).unwrap();
        tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
    }
    tokio::time::sleep(Duration::from_secs(20).saturating_sub(start.elapsed())).await;
    let summary = load.finish().await;
    assert!(summary.answered >= ANSWERED_MIN, "{summary:?}");
    assert!(summary.generations >= 20, "{summary:?}");
    let status = server.settled().await;
    assert_eq!(status.model("m").generation, 1 + 20 + 5);
    assert_eq!(status.restarts(), 5);
    // The server counted exactly what the clients saw.
    for (name, expected) in [
        ("items_total", summary.texts as u64 + status.counter("items_regenerated_total")),
        ("items_cancelled_total", 0),
        ("items_poisonous_total", 0),
        ("requests_overloaded_total", 0),
        ("updates_refused_total", 0),
        ("worker_restarts_total", 5),
        ("commits_total", 26),
    ] {
        assert_eq!(status.counter(name), expected, "{name}: {:?}", status.counters);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minilm_is_updated_under_load() {
    let (minilm, other) = (model("minilm"), model("minilm-variant"));
    let server = Server::builder().model("minilm", &minilm).start().await;
    server.update("minilm", Some(&other)).await.unwrap();
    let mut corpus = Corpus::golden();
    corpus.learn("other", &mut server.client().await, "minilm").await;

    let mut load = Load::start(&server, "minilm", corpus.clone(), "other", 4).await;
    for round in 0..4 {
        let (from, content) = if round % 2 == 0 { (&minilm, "minilm") } else { (&other, "other") };
        load.more(20).await;
        let how = ["--load", LOADS[round / 2]];
        load.update_with(&server, from, content, &how).await.unwrap();
        load.more(20).await;
        for worker in server.settled().await.workers {
            let loaded = &worker.loads["minilm"];
            assert_eq!(
                loaded.load_micros == 0,
                how[1] == "ahead",
                "only lazy loads make requests wait: {worker:?}"
            );
            assert!(loaded.compiled, "{worker:?}");
        }
    }
    let summary = load.finish().await;
    assert_eq!(summary.generations, 5, "{summary:?}");

    // A new version must be checked as well, with the CPU time that clients leave.
    let unknown = server.home().models().join("unknown");
    variant(&minilm, &unknown, "unknown");
    let mut load = Load::start(&server, "minilm", corpus, "other", 1).await;
    load.update(&server, &unknown, "minilm").await.unwrap();
    load.more(20).await;
    let summary = load.finish().await;
    assert_eq!(summary.generations, 2, "{summary:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_updates_get_distinct_numbers_or_are_superseded() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let (a, b) = (model("tiny/a"), model("tiny/b"));
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 2).await;
    let results = tokio::join!(
        server.update("m", Some(&b)),
        server.update_with("m", Some(&a), &["--load", "lazy"]),
        server.update_with("m", Some(&b), &["--load", "lazy"]),
        server.update("m", Some(&a)),
    );
    let results = [results.0, results.1, results.2, results.3];
    let mut generations = Vec::new();
    for result in results {
        match result {
            Ok(committed) => generations.push(committed.generation),
            Err(refusal) => assert_eq!(refusal.kind, "superseded", "{refusal:?}"),
        }
    }
    generations.sort_unstable();
    let newest = server.status().await.model("m").generation;
    assert_eq!(generations.last(), Some(&newest));
    assert!(generations[0] > 1, "{generations:?}");
    let history = load.stop().await;
    assert!(history.requests.iter().all(e2e::history::Request::was_answered));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_single_generation() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let corpus = Corpus::tiny();
    let indices: Vec<usize> = (0..32).map(|index| index % corpus.texts.len()).collect();
    let texts: Vec<&str> = indices.iter().map(|&index| corpus.texts[index].as_str()).collect();
    let body = json!({"inputs": texts});
    let pending = async {
        let mut client = server.client().await;
        let mut seen = Vec::new();
        while seen.last() < Some(&9) {
            let response = client.post("/embed", &body).await.unwrap();
            let content = corpus.content(&indices, &response.embeddings()).unwrap();
            let generation = response.generation().unwrap();
            assert_eq!(content, if generation % 2 == 1 { "a" } else { "b" });
            seen.push(generation);
        }
        assert!(seen.is_sorted(), "{seen:?}");
    };
    let updating = async {
        for round in 0..8 {
            let from = model(if round % 2 == 0 { "tiny/b" } else { "tiny/a" });
            let how = ["--load", LOADS[round / 4]];
            server.update_with("m", Some(&from), &how).await.unwrap();
        }
    };
    tokio::join!(pending, updating);
    server.stop().await;
}
