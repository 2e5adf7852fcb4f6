//! Bad candidates are never served: the caller gets the reason, and the old generation keeps
//! serving.

use std::{fs, os::unix::fs::symlink, process::Command};

use e2e::{
    corpus::Corpus,
    fixtures::{self, model, replace_model},
    load::Load,
    processes::Signal,
    server::Server,
};

/// A source, the kind of its refusal, and words of which the message must contain one.
const REFUSED: [(&str, &str, &[&str]); 9] = [
    ("truncated", "load", &["model.onnx", "parse", "protobuf"]),
    ("corrupt", "load", &["model.onnx", "parse", "protobuf", "load"]),
    ("wide", "contract", &["48"]),
    ("no_tokenizer", "contract", &["tokenizer.json"]),
    ("nan", "contract", &["nan", "finite"]),
    ("renamed", "contract", &["input"]),
    ("foreign_tokenizer", "contract", &["token"]),
    ("dense", "contract", &["dense"]),
    ("missing", "not_found", &["missing"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_candidate_is_refused_with_its_cause() {
    let builder = Server::builder();
    let home = builder.directories();
    let server = builder.model("m", &model("tiny/a")).start().await;
    let linked = home.models().join("linked");
    replace_model(&model("tiny/b"), &linked);
    fs::rename(linked.join("model.onnx"), home.root().join("elsewhere.bin")).unwrap();
    symlink("../../elsewhere.bin", linked.join("model.onnx")).unwrap();

    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 8).await;
    let before = server.status().await.model("m").clone();
    let tiny = model("tiny");
    let sources = REFUSED.map(|(name, kind, words)| (tiny.join(name), kind, words));
    for (source, kind, words) in sources.into_iter().chain([(linked, "contract", &["link"][..])]) {
        let shown = source.display();
        let refusal = load.update(&server, &source, "none").await.unwrap_err();
        let message = refusal.message.to_lowercase();
        assert_eq!(refusal.kind, kind, "{shown}: {}", refusal.message);
        assert!(words.iter().any(|word| message.contains(word)), "{shown}: {}", refusal.message);
        let after = server.status().await.model("m").clone();
        assert_eq!((after.generation, &after.version), (before.generation, &before.version));
        load.more(8).await;
    }
    let summary = load.finish().await;
    assert_eq!(summary.generations, 1, "{summary:?}");

    let from = model("tiny/b");
    let committed = server.update("m", Some(&from)).await.unwrap();
    assert_eq!(committed.generation, 2, "refused updates use no number");
    assert_eq!(server.status().await.restarts(), 0, "no worker was restarted");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_upload_is_refused_by_its_checksums() {
    let builder = Server::builder();
    let source = crate::copy_of(&builder.directories(), "b");
    let server = builder.model("m", &model("tiny/a")).start().await;
    let sums = Command::new("sha256sum")
        .args(["model.onnx", "tokenizer.json", "config.json"])
        .current_dir(&source)
        .output()
        .unwrap();
    fs::write(source.join("SHA256SUMS"), sums.stdout).unwrap();
    let refusal = server.update("m", Some(&source)).await.unwrap_err();
    assert_eq!(refusal.kind, "checksum");
    let unlisted = "1_Pooling/config.json is not listed";
    assert!(refusal.message.contains(unlisted), "{}", refusal.message);
    fixtures::write_checksums(&source);
    server.update("m", Some(&source)).await.unwrap();

    let tokenizer = fs::read(source.join("tokenizer.json")).unwrap();
    fs::write(source.join("tokenizer.json"), [&tokenizer[..], b" "].concat()).unwrap();
    let refusal = server.update("m", Some(&source)).await.unwrap_err();
    assert_eq!(refusal.kind, "checksum");
    assert!(refusal.message.contains("tokenizer.json"), "{}", refusal.message);
    fs::remove_file(source.join("tokenizer.json")).unwrap();
    let refusal = server.update("m", Some(&source)).await.unwrap_err();
    assert_eq!(refusal.kind, "checksum");
    assert!(refusal.message.contains("missing"), "{}", refusal.message);

    fs::write(source.join("tokenizer.json"), tokenizer).unwrap();
    server.update("m", Some(&source)).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_a_broken_source_changes_nothing() {
    let builder = Server::builder();
    let source = crate::copy_of(&builder.directories(), "a");
    let server = builder.model("m", &source).model("other", &model("tiny/b")).start().await;
    fs::remove_file(source.join("tokenizer.json")).unwrap();
    server.signal(Signal::SIGHUP);
    // The other model's source is still valid.
    server.generation_above("other", 1).await;
    let load = Load::start(&server, "m", Corpus::tiny(), "a", 2).await;
    load.more(50).await;
    assert_eq!(load.finish().await.generations, 1);
    assert_eq!(server.status().await.model("m").generation, 1);
    assert!(server.stderr().contains("tokenizer.json"), "the log names the cause");
    server.stop().await;
}
