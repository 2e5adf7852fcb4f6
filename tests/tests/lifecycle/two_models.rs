//! Updates of different models are independent.

use std::time::Duration;

use e2e::{control::Control, corpus::Corpus, eventually, load::Load, server::Server};

use crate::{checkers, served, tiny};

#[tokio::test(flavor = "multi_thread")]
async fn an_update_never_changes_another_models_generation() {
    let server = Server::builder().model("one", &tiny("a")).model("two", &tiny("b")).start().await;
    let mut one = Load::start(&server, "one", Corpus::tiny(), "a", 4).await;
    let two = Load::start(&server, "two", Corpus::tiny(), "b", 4).await;
    let before = served(&server, "two").await;
    for (content, load) in [("b", "ahead"), ("a", "lazy"), ("cls", "ahead"), ("b", "lazy")] {
        one.update_with(&server, &tiny(content), content, &["--load", load]).await.unwrap();
        one.more(10).await;
        two.more(10).await;
    }
    let start = one.now();
    let back = server.rollback("one", None).await.unwrap();
    one.committed((start, one.now()), &back, "cls");
    one.more(10).await;
    two.more(10).await;
    assert_eq!(one.finish().await.generations, 6);
    assert_eq!(two.finish().await.generations, 1);
    assert_eq!(served(&server, "two").await, before);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_check_does_not_block_another_models_update() {
    let builder = Server::builder().argument("--check-timeout").argument("60");
    let server = builder.model("one", &tiny("a")).model("two", &tiny("a")).start().await;
    let mut long = Control::new(&server).update("one", &tiny("slow"), "ahead").await;
    long.step("passed").await;
    let committed = server.update("two", Some(&tiny("b"))).await.unwrap();
    assert_eq!((committed.generation, served(&server, "one").await.0), (2, 1));
    let more = tokio::time::timeout(Duration::from_millis(100), long.line()).await;
    assert!(more.is_err(), "the long check has ended: {more:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_two_candidates_are_checked_at_once() {
    let names = ["one", "two", "three"];
    let builder =
        names.iter().fold(Server::builder(), |builder, name| builder.model(name, &tiny("a")));
    let server = builder.argument("--check-timeout=5").start().await;
    let control = Control::new(&server);
    let mut calls = Vec::new();
    for name in names {
        calls.push(control.update(name, &tiny("slow"), "ahead").await);
    }
    let timeout = Duration::from_secs(20);
    let two = || (checkers(server.home()).len() == 2).then_some(());
    eventually("two checkers", timeout, async || two()).await;
    for _ in 0..20 {
        assert!(checkers(server.home()).len() <= 2);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for call in calls {
        assert_eq!(call.end().await.1.expect_err("the check times out").kind, "timeout");
    }
    server.stop().await;
}
