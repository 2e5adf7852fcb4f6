//! Rollbacks are fast: versions that have served are neither checked nor compiled again.

use e2e::{admin, control::Control, corpus::Corpus, load::Load, server::Server};

use crate::{served, tiny};

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_under_load_skips_checks_and_fails_no_request() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    load.update(&server, &tiny("b"), "b").await.unwrap();
    for content in ["a", "b"].into_iter().cycle().take(10) {
        let start = load.now();
        let (steps, outcome) = Control::new(&server).rollback("m").await.end().await;
        let committed = outcome.unwrap();
        assert_eq!(committed.load, admin::Load::Ahead);
        assert_eq!(steps, ["loaded", "loaded"], "only loaded");
        load.committed((start, load.now()), &committed, content);
        load.more(8).await;
    }
    for worker in server.settled().await.workers {
        assert_eq!(worker.loads["m"].load_micros, 0, "loaded ahead: {worker:?}");
    }
    assert_eq!(load.finish().await.generations, 12);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_to_a_previous_version_is_not_checked_again() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    server.update("m", Some(&tiny("b"))).await.unwrap();
    let (steps, outcome) = Control::new(&server).update("m", &tiny("a"), "ahead").await.end().await;
    assert_eq!(outcome.unwrap().generation, 3);
    assert!(!steps.iter().any(|step| ["passed", "checked"].contains(&step.as_str())), "{steps:?}");
    assert_eq!(served(&server, "m").await.0, 3);
    server.stop().await;
}
