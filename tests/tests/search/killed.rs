//! Processes die, and neither a request nor a document is lost.

use std::{fs, time::Duration};

use e2e::{
    processes::Signal,
    search::{load::SearchLoad, requests},
};

use crate::{PLAN, builder, create, found, next_index, put, search, spaces};

/// A text that kills the index process, and the file that says so; see its module `fault`.
const FATAL: &str = "the good server";
const FATAL_FILE: &str = "fatal-text";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_index_process_fails_no_request() {
    let server = builder().start().await;
    let load = SearchLoad::start(&server, PLAN, spaces(500).await, "a").await;
    let mut last = None;
    for _ in 0..4 {
        let process = next_index(server.pid(), last).await;
        load.more(40).await;
        process.signal(Signal::SIGKILL);
        last = Some(process);
    }
    load.more(40).await;
    load.finish(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_a_killed_index_process_is_repeated() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &["hello", "london"]).await;
    let process = next_index(server.pid(), None).await;
    process.signal(Signal::SIGSTOP);
    let (mut writer, mut searcher) = (server.client().await, server.client().await);
    let writing = tokio::spawn(async move {
        requests::put(&mut writer, "notes", [(0, "good day"), (2, "world")]).await
    });
    let searching = tokio::spawn(async move { search(&mut searcher, "notes", "london", 1).await });
    // By then both are in the process.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!writing.is_finished() && !searching.is_finished());
    process.signal(Signal::SIGKILL);
    let written = writing.await.expect("a client").expect("an answer");
    assert_eq!(written.status, 200, "{}", written.text());
    assert_eq!(searching.await.expect("a client").status, 200);
    let texts: Vec<String> =
        requests::export(&mut client, "notes").await.into_iter().map(|one| one.text).collect();
    assert_eq!(texts, ["good day", "london", "world"]);
    assert!(server.stderr().contains("the index process ended"), "it is logged");
    let counters = server.status().await;
    assert_eq!(counters.counter("index_restarts_total"), 1);
    assert_eq!(counters.counter("index_requests_retried_total"), 2);
    let metrics = client.get("/metrics").await.expect("an answer").text();
    for line in ["onnxd_index_restarts_total 1\n", "onnxd_index_requests_retried_total 2\n"] {
        assert!(metrics.contains(line), "{line}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn creating_and_removing_a_collection_may_be_repeated() {
    let server = builder().start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    let mut last = None;
    for round in 0..3 {
        let process = next_index(server.pid(), last).await;
        let creating = async {
            let name = format!("round-{round}");
            requests::create(&mut client, &name, "m").await.expect("an answer")
        };
        let killing = async {
            tokio::time::sleep(Duration::from_millis(round)).await;
            process.signal(Signal::SIGKILL);
        };
        let (created, ()) = tokio::join!(creating, killing);
        assert_eq!(created.status, 200, "{}", created.text());
        // Starts the process again.
        put(&mut client, &format!("round-{round}"), &["hello"]).await;
        last = Some(process);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_kills_the_index_process_fails_alone() {
    let server = builder().start().await;
    let load = SearchLoad::start(&server, PLAN, spaces(500).await, "a").await;
    let collections = server.home().state().join("collections");
    fs::write(collections.join(FATAL_FILE), FATAL).expect("a file");
    let mut client = server.client().await;
    create(&mut client, "other").await;
    load.more(20).await;
    let documents = [(1, "hello"), (2, FATAL)];
    let refused = requests::put(&mut client, "other", documents).await.expect("an answer");
    assert_eq!(refused.status, 503, "{}", refused.text());
    let message = requests::error(&refused);
    assert!(message.contains("ended three times"), "{message}");
    assert_eq!(requests::export(&mut client, "other").await, [], "nothing is half done");
    load.more(20).await;
    load.finish(&server).await;
    put(&mut client, "other", &["hello"]).await;
    assert_eq!(found(&mut client, "other", "hello", 5).await.ids(), [0]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_fail_no_search() {
    let server = builder().workers(3).start().await;
    let load = SearchLoad::start(&server, PLAN, spaces(500).await, "a").await;
    for restarts in 1..=3 {
        load.more(30).await;
        let pid = server.worker_pids().await[0];
        e2e::processes::signal(pid, Signal::SIGKILL);
        server.restarted(restarts).await;
    }
    load.more(30).await;
    load.finish(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_documents_survive_a_killed_supervisor() {
    let mut server = builder().start().await;
    let load = SearchLoad::start(&server, PLAN, spaces(500).await, "a").await;
    for _ in 0..4 {
        load.more(40).await;
        // Panics if an index process is left behind.
        load.kill(&server);
        server = load.start_again(server, builder()).await;
    }
    load.more(40).await;
    load.finish(&server).await;
    server.stop().await;
}
