//! Loading ahead: when an update returns, every worker has loaded the new version.

use std::time::{Duration, Instant};

use e2e::{
    admin,
    control::Control,
    corpus::Corpus,
    load::Load,
    processes::{self, Signal},
    server::Server,
};

use crate::{embed, served, tiny};

#[tokio::test(flavor = "multi_thread")]
async fn no_request_waits_for_a_version_loaded_ahead() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let committed = server.update("m", Some(&tiny("b"))).await.unwrap();
    assert_eq!(committed.load, admin::Load::Ahead);
    // Idle workers switch without any request.
    for worker in server.settled().await.workers {
        assert_eq!(worker.generations["m"], 2);
        assert_eq!(worker.loads["m"].load_micros, 0, "{worker:?}");
    }
    let committed = server.update_with("m", Some(&tiny("a")), &["--load", "lazy"]).await.unwrap();
    assert_eq!(committed.load, admin::Load::Lazy);
    embed(&server, "a").await;
    let status = server.status().await;
    let loaded = status.workers.iter().filter(|worker| worker.generations["m"] == 3);
    let waited: Vec<u64> = loaded.map(|worker| worker.loads["m"].load_micros).collect();
    assert!(!waited.is_empty() && waited.iter().all(|&micros| micros > 0), "{waited:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_load_in_turn_and_switch_at_once() {
    let server = Server::builder().workers(3).model("m", &tiny("a")).start().await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    for content in ["b", "a", "b", "cls", "a"] {
        let start = load.now();
        let call = Control::new(&server).update("m", &tiny(content), "ahead").await;
        let (steps, outcome) = call.end().await;
        load.committed((start, load.now()), &outcome.unwrap(), content);
        assert_eq!(steps.iter().filter(|step| *step == "loaded").count(), 3, "{steps:?}");
        load.more(16).await;
    }
    assert_eq!(load.finish().await.generations, 6);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_while_loading_ahead_does_not_block_the_update() {
    let server = Server::builder().tolerates_stopped_workers().model("m", &tiny("a")).start().await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 2).await;
    let victim = server.settled().await.workers[0].pid.unwrap();
    // The stopped worker receives the request to load but does not process it.
    processes::signal(victim, Signal::SIGSTOP);
    let start = load.now();
    let mut call = Control::new(&server).update("m", &tiny("b"), "ahead").await;
    call.step("checked").await;
    let next = tokio::time::timeout(Duration::from_millis(500), call.line()).await;
    assert!(next.is_err(), "the stopped worker must not have loaded: {next:?}");
    assert_eq!(served(&server, "m").await.0, 1);

    let killed = Instant::now();
    processes::signal(victim, Signal::SIGKILL);
    let (steps, outcome) = call.end().await;
    load.committed((start, load.now()), &outcome.unwrap(), "b");
    assert_eq!(steps, ["loaded"], "only the other worker loads");
    // A worker that neither answers nor exits would be waited for a minute.
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    server.restarted(1).await;
    load.more(10).await;
    assert_eq!(load.finish().await.generations, 2);
    assert_eq!(server.status().await.model("m").generation, 2, "no rollback");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_kills_all_loading_workers_is_not_committed() {
    let server = Server::builder().tolerates_stopped_workers().model("m", &tiny("a")).start().await;
    let victims = server.settled().await.pids();
    victims.iter().for_each(|&pid| processes::signal(pid, Signal::SIGSTOP));
    let mut call = Control::new(&server).update("m", &tiny("b"), "ahead").await;
    call.step("checked").await;
    for pid in victims {
        // A worker is asked to load only after the previous one has died.
        tokio::time::sleep(Duration::from_millis(300)).await;
        processes::signal(pid, Signal::SIGKILL);
    }
    let (_, outcome) = call.end().await;
    assert_eq!(outcome.unwrap_err().kind, "crash");
    server.restarted(2).await;
    assert_eq!(served(&server, "m").await.0, 1);
    server.stop().await;
}
