//! Retention: the last versions of each model, and versions in use.

use std::{path::PathBuf, sync::Arc, time::Duration};

use e2e::{
    control::Control,
    corpus::{Corpus, TOLERANCE, distance},
    disk::Disk,
    home::Home,
    launch::Builder,
    load::Load,
    processes::{self, Signal},
    server::Server,
};

use crate::{embed, served, tiny, variant_of};

fn builder(home: &Arc<Home>, retention: &str) -> Builder {
    let builder = Server::builder().home(home).model("m", &tiny("a")).model("other", &tiny("cls"));
    builder.argument("--retention").argument(retention)
}

fn variants(home: &Home) -> Vec<PathBuf> {
    (1..=5).map(|number| variant_of(home, "b", &number.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_last_three_versions_for_rollbacks() {
    let home = Arc::new(Home::new());
    let disk = Disk::new(&home);
    let server = builder(&home, "3").start().await;
    let others = served(&server, "other").await;
    let mut versions = vec![served(&server, "m").await.1];
    for from in variants(&home) {
        let committed = server.update("m", Some(&from)).await.unwrap();
        versions.push(committed.version);
        assert!(disk.versions().contains(versions.last().unwrap()), "the served version is kept");
    }
    server.stop().await;

    let server = builder(&home, "3").start().await;
    assert_eq!(served(&server, "m").await, (6, versions[5].clone()));
    let mut kept = versions[3..].to_vec();
    kept.push(others.1.clone());
    kept.sort();
    assert_eq!(disk.versions().into_iter().collect::<Vec<_>>(), kept);
    assert_eq!(disk.compiled().into_iter().collect::<Vec<_>>(), kept);
    assert_eq!(served(&server, "other").await, others, "other models keep their versions");

    for (generation, version) in [(4, &versions[3]), (5, &versions[4])] {
        let back = server.rollback("m", Some(generation)).await.unwrap();
        assert_eq!(&back.version, version);
        assert_eq!(served(&server, "m").await, (back.generation, back.version));
    }
    for generation in [1, 2, 3] {
        let refusal = server.rollback("m", Some(generation)).await.unwrap_err();
        assert_eq!(refusal.kind, "not_found", "{refusal:?}");
        assert!(refusal.message.contains(&generation.to_string()), "{refusal:?}");
    }
    // A removed version can be committed again as a new generation.
    let again = server.update("m", Some(&tiny("a"))).await.unwrap();
    assert_eq!((again.generation, &again.version), (9, &versions[0]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_served_version_is_never_removed() {
    let home = Arc::new(Home::new());
    let disk = Disk::new(&home);
    let server = builder(&home, "1").start().await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    let variants = variants(&home);
    for round in 0..3 {
        for from in &variants {
            let how = ["--load", if round % 2 == 0 { "ahead" } else { "lazy" }];
            let committed = load.update_with(&server, from, "b", &how).await.unwrap();
            assert!(disk.version(&committed.version).join("MANIFEST").exists());
            load.more(4).await;
        }
    }
    load.finish().await;
    let (generation, version) = served(&server, "m").await;
    let other = served(&server, "other").await;
    assert_eq!(generation, 16);
    server.stop().await;

    let server = builder(&home, "1").start().await;
    assert_eq!(served(&server, "m").await, (16, version.clone()));
    let mut kept = [version, other.1];
    kept.sort();
    assert_eq!(disk.versions().into_iter().collect::<Vec<_>>(), kept, "one version of each model");
    let refusal = server.rollback("m", None).await.unwrap_err();
    assert_eq!(refusal.kind, "not_found", "{refusal:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_not_removed_by_another_models_update() {
    let home = Arc::new(Home::new());
    let server = builder(&home, "1").tolerates_stopped_workers().start().await;
    let victim = server.settled().await.workers[0].pid.unwrap();
    // The stopped worker delays the update between check and record.
    processes::signal(victim, Signal::SIGSTOP);
    let mut call = Control::new(&server).update("m", &tiny("b"), "ahead").await;
    call.step("checked").await;
    let others = server.update_with("other", Some(&tiny("a")), &["--load", "lazy"]).await;
    assert_eq!(others.unwrap().generation, 2);
    tokio::time::sleep(Duration::from_millis(300)).await;
    processes::signal(victim, Signal::SIGKILL);
    let (_, outcome) = call.end().await;
    let committed = outcome.unwrap();
    assert_eq!(served(&server, "m").await, (2, committed.version.clone()));
    let corpus = Corpus::tiny();
    let embedding = embed(&server, &corpus.texts[1]).await;
    assert!(distance(&corpus.contents["b"][1], &embedding) < TOLERANCE);
    server.stop().await;
}
