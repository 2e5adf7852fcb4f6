//! Models from another server: served from the first start on, replaced when the source changes, and
//! never disturbed by an upload in progress or a source that is away.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]

use std::{
    fs,
    time::{Duration, SystemTime},
};

use e2e::{
    corpus::Corpus,
    eventually,
    fixtures::model,
    home::Home,
    load::Load,
    server::Server,
    web::{CHECKSUMS, Served, Web, upload},
};

const SOON: Duration = Duration::from_secs(60);

/// A web server with the model `tiny/a` in its folder `m`, and an onnxd that serves it.
async fn served() -> (Web, Server, std::path::PathBuf) {
    let builder = Server::builder();
    let folder = builder.directories().root().join("web/m");
    upload(&model("tiny/a"), &folder);
    let web = Web::start(folder.parent().unwrap());
    let spec = format!("m={}", web.uri("m"));
    let builder = builder.argument("--model").argument(&spec).argument("--poll=1");
    (web, builder.start().await, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_replaces_the_model_once_it_is_complete() {
    let (_web, server, folder) = served().await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    for (before, content) in [(1, "b"), (2, "a"), (3, "b")] {
        // The worst order: the model first, and its checksums much later.
        fs::copy(model("tiny").join(content).join("model.onnx"), folder.join("model.onnx"))
            .unwrap();
        server.source_checks("m", 2).await;
        assert_eq!(server.status().await.model("m").generation, before, "an unfinished upload");
        let start = load.now();
        upload(&model("tiny").join(content), &folder);
        load.follow(&server, start, before, content).await;
        load.more(20).await;
    }
    let summary = load.finish().await;
    assert_eq!(summary.generations, 4, "{summary:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the status shows wall-clock times")]
async fn unchanged_content_costs_one_request_without_a_body() {
    let (web, server, _folder) = served().await;
    // The first check after a start has no validator yet.
    server.source_checks("m", 2).await;
    web.take_served();
    server.source_checks("m", 3).await;
    let served = web.take_served();
    let expected = Served { method: "GET".into(), path: "/m/SHA256SUMS".into(), status: 304 };
    assert!(served.len() >= 2 && served.iter().all(|one| *one == expected), "{served:?}");
    let state = server.status().await.model("m").source_state.clone().unwrap();
    assert!(state.snapshot.unwrap().starts_with("sha256:"));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!(now - state.checked.unwrap() < 60, "{now}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_away_disturbs_nothing_and_is_used_when_it_is_back() {
    let (web, server, folder) = served().await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    web.take_away(true);
    let reason = server.source_error("m").await;
    assert!(reason.contains(&web.uri("m")), "{reason}");
    load.more(20).await;
    let start = load.now();
    upload(&model("tiny/b"), &folder);
    web.take_away(false);
    load.follow(&server, start, 1, "b").await;
    eventually("no error", SOON, async || {
        let status = server.status().await;
        status.model("m").source_state.clone().unwrap().error.is_none().then_some(())
    })
    .await;
    let summary = load.finish().await;
    assert_eq!(summary.generations, 2, "{summary:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_snapshot_is_not_fetched_again_until_it_changes() {
    let (web, server, folder) = served().await;
    upload(&model("tiny/nan"), &folder);
    let reason = server.source_error("m").await.to_lowercase();
    assert!(reason.contains("nan") || reason.contains("finite"), "{reason}");
    server.source_checks("m", 1).await;
    web.take_served();
    server.source_checks("m", 3).await;
    let served = web.take_served();
    assert!(served.iter().all(|one| one.path == "/m/SHA256SUMS"), "{served:?}");
    assert_eq!(server.status().await.model("m").generation, 1);
    upload(&model("tiny/b"), &folder);
    let after = server.generation_above("m", 1).await;
    assert_eq!(after.generation, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_the_source_serves_and_keeps_a_rollback() {
    let builder = Server::builder();
    let folder = builder.directories().root().join("web/m");
    upload(&model("tiny/a"), &folder);
    let web = Web::start(folder.parent().unwrap());
    let spec = format!("m={}", web.uri("m"));
    let builder = builder.argument("--model").argument(&spec).argument("--poll=1");
    let mut server = builder.clone().start().await;
    upload(&model("tiny/b"), &folder);
    let before = server.generation_above("m", 1).await;
    let committed = server.rollback("m", None).await.unwrap();
    assert!(committed.generation > before.generation && committed.version != before.version);
    server.terminate().await;

    web.take_away(true);
    let server = builder.start().await;
    let watch = server.status().await.model("m").source_state.clone().unwrap();
    assert!(watch.snapshot.is_some(), "known before the first check: {watch:?}");
    server.source_error("m").await;
    assert_eq!(server.status().await.model("m").version, committed.version);
    web.take_away(false);
    server.source_checks("m", 3).await;
    let after = server.status().await.model("m").clone();
    assert_eq!(after.version, committed.version, "an unchanged source undoes no rollback");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_undoes_no_rollback_of_a_polled_directory() {
    let builder = Server::builder();
    let folder = builder.directories().root().join("m");
    upload(&model("tiny/a"), &folder);
    let spec = format!("m={}", folder.display());
    let builder = builder.argument("--model").argument(&spec).argument("--poll=m=1");
    // The restart removes the version that was rolled back.
    let builder = builder.argument("--retention=1");
    let mut server = builder.clone().start().await;
    server.source_checks("m", 1).await;
    upload(&model("tiny/b"), &folder);
    server.generation_above("m", 1).await;
    let committed = server.rollback("m", None).await.unwrap();
    server.source_checks("m", 3).await;
    server.terminate().await;
    let server = builder.start().await;
    server.source_checks("m", 3).await;
    let after = server.status().await.model("m").clone();
    assert_eq!((after.generation, after.version), (committed.generation, committed.version));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_waits_for_checksums_and_names_the_remedy() {
    let home = std::sync::Arc::new(Home::new());
    let folder = home.root().join("web/m");
    upload(&model("tiny/a"), &folder);
    fs::remove_file(folder.join(CHECKSUMS)).unwrap();
    let web = Web::start(folder.parent().unwrap());
    let spec = format!("m={}", web.uri("m"));
    let builder = Server::builder().home(&home).argument("--model").argument(&spec);
    let mut server = builder.spawn();
    let is_named = async || server.stderr().contains("sha256sum").then_some(());
    eventually("the remedy in the log", SOON, is_named).await;
    upload(&model("tiny/a"), &folder);
    server.ready().await.unwrap();
    server.stop().await;
}
