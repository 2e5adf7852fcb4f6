//! Canary texts of a candidate, and drift from the serving version.

use std::{fs, path::PathBuf};

use e2e::{corpus::Corpus, home::Home, load::Load, server::Server};
use serde_json::json;

use crate::{embed, served, tiny, variant_of};

/// Creates a variant of `b` whose canary expects embeddings of these contents.
fn with_canary(home: &Home, name: &str, contents: &[&str]) -> PathBuf {
    let corpus = Corpus::tiny();
    let lines = corpus.texts.iter().zip(contents).enumerate().map(|(index, (text, content))| {
        let embedding = &corpus.contents[*content][index];
        json!({"text": text, "embedding": embedding, "min_cosine": 0.999}).to_string()
    });
    let directory = variant_of(home, "b", name);
    fs::write(directory.join("canary.jsonl"), lines.collect::<Vec<_>>().join("\n"))
        .expect("the canary can be written");
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_must_pass_its_own_canary() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let home = server.home();
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 2).await;
    let third = with_canary(home, "third", &["b", "b", "a", "b"]);
    let no_line = with_canary(home, "no-line", &["b", "b"]);
    let text = fs::read_to_string(no_line.join("canary.jsonl")).unwrap();
    fs::write(no_line.join("canary.jsonl"), text.replacen("min_cosine", "cosine", 1)).unwrap();
    let other_dimension = with_canary(home, "other-dimension", &["b", "wide"]);
    for (from, parts) in [
        (&third, ["canary.jsonl", "line 3"]),
        (&no_line, ["line 1", "min_cosine"]),
        (&other_dimension, ["line 2", "48"]),
    ] {
        let refusal = load.update(&server, from, "none").await.unwrap_err();
        assert_eq!(refusal.kind, "canary", "{refusal:?}");
        assert!(parts.iter().all(|part| refusal.message.contains(part)), "{refusal:?}");
        load.more(4).await;
    }
    assert_eq!(served(&server, "m").await.0, 1);

    let good = with_canary(home, "good", &["b"; 12]);
    let output = server.cli(&["update", "m", "--from", good.to_str().unwrap()]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("canary"), "{text}");
    drop(load);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_below_min_cosine_is_refused() {
    let builder = Server::builder().argument("--min-cosine").argument("0.99");
    let server = builder.model("m", &tiny("a")).start().await;
    assert!(server.status().await.model("m").drift.is_none(), "nothing to compare with");
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 2).await;
    let refusal = load.update(&server, &tiny("b"), "b").await.unwrap_err();
    assert_eq!(refusal.kind, "drift", "{refusal:?}");
    assert!(refusal.message.contains("0.99"), "{refusal:?}");

    // Without the serving version's compiled form, drift cannot be measured.
    let compiled = server.home().state().join("compiled");
    fs::rename(&compiled, compiled.with_extension("away")).unwrap();
    let refusal = load.update(&server, &tiny("b"), "b").await.unwrap_err();
    assert_eq!(refusal.kind, "drift", "{refusal:?}");
    // It may have been created again for the candidate.
    let _ = fs::remove_dir_all(&compiled);
    fs::rename(compiled.with_extension("away"), &compiled).unwrap();

    let near = variant_of(server.home(), "a", "near");
    load.update(&server, &near, "a").await.unwrap();
    load.more(4).await;
    assert_eq!(load.finish().await.generations, 2);
    let status = server.status().await;
    let drift = status.model("m").drift.expect("drift was measured");
    assert!(drift.min_cosine > 0.9999 && drift.mean_cosine >= drift.min_cosine, "{drift:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_min_cosine_the_drift_is_only_reported() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    server.update("m", Some(&tiny("b"))).await.unwrap();
    let drift = server.status().await.model("m").drift.expect("drift was measured");
    assert!(drift.min_cosine <= drift.mean_cosine && drift.mean_cosine < 0.9, "{drift:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_dimension_is_served_only_if_allowed() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 4).await;
    let refusal = load.update(&server, &tiny("wide"), "wide").await.unwrap_err();
    assert_eq!(refusal.kind, "contract", "{refusal:?}");
    for part in ["48", "32", "--allow-dimension-change"] {
        assert!(refusal.message.contains(part), "{refusal:?}");
    }
    load.more(10).await;
    let allowed = ["--allow-dimension-change"];
    load.update_with(&server, &tiny("wide"), "wide", &allowed).await.unwrap();
    load.more(10).await;
    assert_eq!(embed(&server, "a").await.len(), 48);
    assert_eq!(server.status().await.model("m").dimension, Some(48));

    // An earlier check of the version does not allow the change.
    let refusal = load.update(&server, &tiny("a"), "a").await.unwrap_err();
    assert_eq!(refusal.kind, "contract", "{refusal:?}");
    // A rollback needs no permission: the previous version has served before.
    let start = load.now();
    let back = server.rollback("m", None).await.unwrap();
    load.committed((start, load.now()), &back, "a");
    load.more(10).await;
    assert_eq!(load.finish().await.generations, 3);
    assert_eq!(embed(&server, "a").await.len(), 32);
    server.stop().await;
}
