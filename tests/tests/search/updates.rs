//! Updates and rollbacks embed all documents before they commit, so that no query meets vectors of
//! another version.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use e2e::{
    admin::Committed,
    eventually, fixtures,
    processes::{self, Signal},
    random::Random,
    search::{index_processes, load::SearchLoad, requests},
    server::Server,
};
use serde_json::json;

use crate::{PLAN, TIMEOUT, builder, create, found, next_index, put, spaces, tiny};

/// Updates the model during a load.
async fn update(load: &SearchLoad, server: &Server, from: &Path, content: &str) -> Committed {
    let start = load.now();
    let committed = server.update("m", Some(from)).await.expect("an update");
    load.committed(start, &committed, content);
    committed
}

async fn roll_back(load: &SearchLoad, server: &Server, content: &str) -> Committed {
    let start = load.now();
    let committed = server.rollback("m", None).await.expect("a rollback");
    load.committed(start, &committed, content);
    committed
}

/// Returns how many texts were embedded for indexes since the start.
async fn embedded_again(server: &Server) -> u64 {
    let metrics = server.client().await.get("/metrics").await.expect("an answer").text();
    let series = "onnxd_index_documents_embedded_total{model=\"m\"} ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(series));
    value.unwrap_or_else(|| panic!("{series}: {metrics}")).parse().expect("a count")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_search_is_exact_in_the_space_of_one_version() {
    let server = builder().start().await;
    let load = SearchLoad::start(&server, PLAN, spaces(500).await, "a").await;
    load.more(50).await;
    for _ in 0..2 {
        update(&load, &server, &tiny("b"), "b").await;
        load.more(50).await;
        roll_back(&load, &server, "a").await;
        load.more(50).await;
        update(&load, &server, &tiny("b"), "b").await;
        load.more(20).await;
        update(&load, &server, &tiny("a"), "a").await;
        load.more(20).await;
    }
    let summary = load.finish(&server).await;
    assert!(summary.contents["a"] > 50 && summary.contents["b"] > 50, "{summary}");
    assert!(summary.own > 0, "{summary}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_queries_of_one_request_are_in_the_space_of_one_version() {
    const QUERIES: usize = 8;
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    let spaces = spaces(200).await;
    let texts: Vec<&str> = (0..200).map(|number| spaces.text(number)).collect();
    put(&mut client, "notes", &texts).await;
    let is_done = AtomicBool::new(false);
    let updates = async {
        for content in ["b", "a", "b", "a", "b", "a"] {
            server.update("m", Some(&tiny(content))).await.expect("an update");
        }
        is_done.store(true, Ordering::Relaxed);
    };
    let searches = async {
        let body = json!({"collection": "notes", "query": texts[..QUERIES], "limit": 5});
        let mut answers = 0;
        while !is_done.load(Ordering::Relaxed) {
            let answer = client.post("/search", &body).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            let answer = answer.json();
            let lists = answer["results"].as_array().expect("a list for each query");
            assert_eq!(lists.len(), QUERIES);
            let is_in = |content: &str| {
                lists.iter().enumerate().all(|(query, hits)| {
                    hits.as_array().expect("hits").iter().all(|hit| {
                        let id = usize::try_from(hit["id"].as_u64().expect("an id")).unwrap();
                        let expected = f64::from(spaces.space(content).score(query, id));
                        (hit["score"].as_f64().expect("a score") - expected).abs() < 1e-3
                    })
                })
            };
            assert!(is_in("a") || is_in("b"), "{answer}");
            answers += 1;
        }
        answers
    };
    let ((), answers) = tokio::join!(updates, searches);
    assert!(answers > 20, "{answers}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_embeds_each_document_once_and_a_rollback_none() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    let spaces = spaces(300).await;
    let texts: Vec<&str> = (0..300).map(|number| spaces.text(number)).collect();
    put(&mut client, "notes", &texts).await;
    assert_eq!(embedded_again(&server).await, 0);
    server.update("m", Some(&tiny("b"))).await.expect("an update");
    assert_eq!(embedded_again(&server).await, 300);
    let in_b = found(&mut client, "notes", texts[5], 1).await;
    assert_eq!((in_b.ids(), in_b.generation), (vec![5], 2));
    server.rollback("m", None).await.expect("a rollback");
    assert_eq!(embedded_again(&server).await, 300, "the index of the rollback was still there");
    assert_eq!(found(&mut client, "notes", texts[5], 1).await.generation, 3);

    // Texts that were written since lack a vector of the other version.
    let documents = [(5, "hello"), (300, "world")];
    let stored = requests::put(&mut client, "notes", documents).await.expect("an answer");
    assert_eq!(stored.status, 200, "{}", stored.text());
    server.update("m", Some(&tiny("b"))).await.expect("an update");
    assert_eq!(embedded_again(&server).await, 302);
    assert_eq!(found(&mut client, "notes", "world", 1).await.ids(), [300]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_with_the_same_vectors_needs_no_embedding() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &["hello", "world", "london"]).await;
    let same = server.home().models().join("same");
    fixtures::variant(&tiny("a"), &same, "same");
    let committed =
        server.update_with("m", Some(&same), &["--reuse-index"]).await.expect("an update");
    assert_eq!(embedded_again(&server).await, 0);
    let answer = found(&mut client, "notes", "london", 1).await;
    assert_eq!((answer.ids(), answer.version), (vec![2], committed.version));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_kept_by_mistake_are_embedded_by_the_next_update() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    let spaces = spaces(20).await;
    let texts: Vec<&str> = (0..20).map(|number| spaces.text(number)).collect();
    put(&mut client, "notes", &texts).await;
    let update = async |more: &[&str]| server.update_with("m", Some(&tiny("b")), more).await;
    let refusal = update(&["--reuse-index"]).await.expect_err("another space");
    assert!(refusal.message.contains("far from those of the serving version"), "{refusal:?}");
    update(&["--reuse-index", "--force"]).await.expect("an update");
    assert_eq!(embedded_again(&server).await, 0);
    server.rollback("m", None).await.expect("a rollback");
    let refusal = update(&["--reuse-index"]).await.expect_err("it is still another space");
    assert!(refusal.message.contains("mean cosine"), "{refusal:?}");
    update(&[]).await.expect("an update");
    assert_eq!(embedded_again(&server).await, 20);
    for (id, text) in (0..).zip(&texts) {
        let answer = found(&mut client, "notes", text, 1).await;
        assert_eq!((answer.ids(), answer.generation), (vec![id], 4));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_follow_a_model_to_its_new_name() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &["hello", "world", "london"]).await;
    let home = Arc::clone(server.home());
    server.stop().await;
    let builder = Server::builder().home(&home).model("new", &tiny("a"));
    let server = builder.argument("--model-alias=m=new").start().await;
    let mut client = server.client().await;
    assert_eq!(found(&mut client, "notes", "london", 1).await.ids(), [2]);
    server.update("new", Some(&tiny("b"))).await.expect("an update");
    let answer = found(&mut client, "notes", "london", 1).await;
    assert_eq!((answer.ids(), answer.generation), (vec![2], 2));
    let metrics = client.get("/metrics").await.expect("an answer").text();
    assert!(metrics.contains("onnxd_index_documents_embedded_total{model=\"new\"} 3"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_another_dimension_gets_an_index_of_its_own() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &["hello", "world", "london"]).await;
    let more = ["--allow-dimension-change"];
    server.update_with("m", Some(&tiny("wide")), &more).await.expect("an update");
    for (id, text) in [(0, "hello"), (1, "world"), (2, "london")] {
        let answer = found(&mut client, "notes", text, 3).await;
        assert_eq!((answer.ids()[0], answer.hits.len()), (id, 3));
    }
    server.rollback("m", None).await.expect("a rollback");
    assert_eq!(found(&mut client, "notes", "world", 1).await.ids(), [1]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_update_of_a_model_with_documents_is_refused() {
    let server = builder().start().await;
    let mut client = server.client().await;
    let lazily =
        async |from: &str| server.update_with("m", Some(&tiny(from)), &["--load", "lazy"]).await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &["hello"]).await;
    let refusal = lazily("b").await.expect_err("a refusal");
    assert!(refusal.message.contains("collections are bound to m"), "{refusal:?}");
    assert_eq!(found(&mut client, "notes", "hello", 1).await.generation, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn index_and_workers_killed_during_updates_fail_no_search() {
    let server = builder().workers(3).start().await;
    let load = SearchLoad::start(&server, PLAN, spaces(500).await, "a").await;
    let mut random = Random::new(5);
    let mut committed = 0;
    for round in 0..6 {
        let content = if round % 2 == 0 { "b" } else { "a" };
        let from = server.home().models().join(format!("{content}-{round}"));
        fixtures::variant(&tiny(content), &from, &round.to_string());
        let start = load.now();
        let killing = async {
            tokio::time::sleep(Duration::from_millis(random.below(1500))).await;
            match round % 3 {
                0 => processes::signal(server.worker_pids().await[0], Signal::SIGKILL),
                _ => {
                    index_processes(server.pid()).iter().for_each(|one| one.signal(Signal::SIGKILL))
                }
            }
        };
        let (result, ()) = tokio::join!(server.update("m", Some(&from)), killing);
        // A killed worker may have been the one that loads the candidate.
        if let Ok(result) = result {
            committed += 1;
            load.committed(start, &result, content);
        }
        load.more(10).await;
    }
    assert!(committed >= 3, "{committed} updates");
    load.finish(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_killed_during_an_update_keeps_vectors_apart() {
    let mut server = builder().start().await;
    let models = server.home().models();
    let load = SearchLoad::start(&server, PLAN, spaces(500).await, "a").await;
    let mut known = 1;
    for (round, delay) in [300, 700, 1200].into_iter().enumerate() {
        let content = if round % 2 == 0 { "b" } else { "a" };
        let from = models.join(format!("{content}-{round}"));
        fixtures::variant(&tiny(content), &from, &round.to_string());
        let start = load.now();
        let arguments = ["update", "m", "--from", from.to_str().expect("a path")];
        let killing = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            load.kill(&server);
        };
        tokio::join!(server.cli(&arguments), killing);
        server = load.start_again(server, builder()).await;
        let serving = server.status().await.model("m").clone();
        load.record(start, serving.generation, &serving.version, content);
        known = serving.generation;
        load.more(20).await;
    }
    // The next update goes on where the last one ended.
    let committed = update(&load, &server, &tiny("b"), "b").await;
    assert!(committed.generation > known);
    load.more(20).await;
    load.finish(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_abandoned_during_an_update_fails_no_search() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &["hello", "world"]).await;
    let texts: Vec<String> = (0..250).map(|number| format!("the year {number}")).collect();
    for (round, content) in (1..).zip(["b", "a", "b"]) {
        let index = next_index(server.pid(), None).await;
        index.signal(Signal::SIGSTOP);
        let abandoning = async {
            // The update waits for the index process.
            eventually("all workers loaded the candidate", TIMEOUT, async || {
                let loaded = server.stderr().matches("worker loaded ahead").count();
                (loaded >= 2 * round).then_some(())
            })
            .await;
            let mut client = server.client().await;
            let documents = (1000 * round as u64..).zip(texts.iter().map(String::as_str));
            let pending = requests::put(&mut client, "notes", documents);
            // Dropping the connection ends the request. By then its documents are embedded.
            assert!(tokio::time::timeout(Duration::from_secs(2), pending).await.is_err());
            drop(client);
            tokio::time::sleep(Duration::from_millis(200)).await;
            index.signal(Signal::SIGCONT);
        };
        let from = tiny(content);
        let (updated, ()) = tokio::join!(server.update("m", Some(&from)), abandoning);
        updated.expect("an update");
        for _ in 0..20 {
            // Panics unless the answer is 200.
            found(&mut client, "notes", "the year 5", 10).await;
        }
    }
    server.stop().await;
}
