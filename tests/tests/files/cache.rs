//! The Hugging Face hub's cache, where snapshots are symbolic links to blobs.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use e2e::{fixtures::model, home::Home, server::Server};

use crate::serves;

/// Adds a snapshot of the tiny model `content` to the cache and makes it the main one.
fn add(cache: &Path, content: &str) -> PathBuf {
    let snapshot = cache.join("snapshots").join(content.repeat(40));
    for name in ["1_Pooling/config.json", "config.json", "modules.json", "tokenizer.json"] {
        link(cache, &snapshot, content, name, name);
    }
    link(cache, &snapshot, content, "model.onnx", "onnx/model.onnx");
    fs::create_dir_all(cache.join("refs")).expect("the cache can be written");
    fs::write(cache.join("refs/main"), content.repeat(40)).expect("the cache can be written");
    snapshot
}

/// Stores a file of the tiny model `content` as a blob and links to it.
fn link(cache: &Path, snapshot: &Path, content: &str, from: &str, to: &str) {
    let Ok(bytes) = fs::read(model(&format!("tiny/{content}")).join(from)) else { return };
    let blob = format!("{content}{}", from.replace(['/', '.'], "0"));
    fs::create_dir_all(cache.join("blobs")).expect("the cache can be written");
    fs::write(cache.join("blobs").join(&blob), bytes).expect("the cache can be written");
    let path = snapshot.join(to);
    fs::create_dir_all(path.parent().expect("a folder")).expect("the cache can be written");
    let up = "../".repeat(to.matches('/').count() + 2);
    symlink(format!("{up}blobs/{blob}"), path).expect("the cache can be written");
}

fn cache_in(home: &Home) -> PathBuf {
    home.models().join("models--acme--tiny-embed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_or_a_model_folder_of_the_cache_is_served() {
    let builder = Server::builder();
    let cache = cache_in(&builder.directories());
    let snapshot = add(&cache, "a");
    let server = builder.model("m", &snapshot).start().await;
    serves(&server, "a").await;
    let first = server.status().await.model("m").version.clone();
    let same = server.update("m", Some(&cache)).await.unwrap();
    assert_eq!(same.version, first, "the folder resolves to its main snapshot");
    add(&cache, "b");
    server.update("m", Some(&cache)).await.unwrap();
    serves(&server, "b").await;
    server.update("m", Some(&snapshot)).await.unwrap();
    serves(&server, "a").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_out_of_the_cache_is_refused_with_its_target() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let cache = cache_in(server.home());
    let snapshot = add(&cache, "b");
    let secret = server.home().root().join("secret");
    fs::copy(model("tiny/b").join("model.onnx"), &secret).unwrap();
    fs::write(cache.join("refs/other.json"), "{}").unwrap();
    for (name, target) in [
        ("onnx/model.onnx", secret.to_str().unwrap()),
        ("onnx/model.onnx", "../../../../../secret"),
        ("tokenizer.json", "../../refs/other.json"),
        ("1_Pooling", "/etc"),
    ] {
        let path = snapshot.join(name);
        let kept = cache.join("kept");
        fs::rename(&path, &kept).unwrap();
        symlink(target, &path).unwrap();
        let refusal = server.update("m", Some(&snapshot)).await.unwrap_err();
        assert_eq!(refusal.kind, "contract", "{refusal:?}");
        let said = format!("{name} is a link to {target}, which is outside");
        assert!(refusal.message.contains(&said), "{refusal:?}");
        fs::remove_file(&path).unwrap();
        fs::rename(kept, path).unwrap();
    }
    server.update("m", Some(&snapshot)).await.unwrap();
    serves(&server, "b").await;
    server.stop().await;
}
