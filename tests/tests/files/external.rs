//! External weights in files of any name.

use std::{fs, path::PathBuf};

use e2e::{
    disk::Disk,
    fixtures::{model, replace_model},
    home::Home,
    server::Server,
};

use crate::serves;

/// The file name in the model's external data.
const LOCATION: &str = "model.onnx_data";
/// Exporters use this name for a constant's value. It has the same length as [`LOCATION`].
const OTHER: &str = "Constant_7_attr";

/// Creates a model with its weights in a file called [`OTHER`].
fn oddly_named(home: &Home) -> PathBuf {
    let directory = home.models().join("odd");
    replace_model(&model("tiny/external"), &directory);
    let file = directory.join("model.onnx");
    let bytes = fs::read(&file).expect("a model");
    let indices = (0..bytes.len() - LOCATION.len())
        .filter(|&index| bytes[index..].starts_with(LOCATION.as_bytes()));
    let mut renamed = bytes.clone();
    for index in indices {
        renamed[index..index + OTHER.len()].copy_from_slice(OTHER.as_bytes());
    }
    assert_ne!(renamed, bytes);
    fs::write(file, renamed).expect("the model can be written");
    fs::rename(directory.join(LOCATION), directory.join(OTHER))
        .expect("the weights can be renamed");
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_may_have_any_name_and_other_files_are_omitted() {
    let server = Server::builder().model("m", &model("tiny/b")).start().await;
    let source = oddly_named(server.home());
    fs::write(source.join("other.data"), "not the model's").unwrap();
    let committed = server.update("m", Some(&source)).await.unwrap();
    serves(&server, "a").await;
    let version = Disk::new(server.home()).version(&committed.version);
    assert!(version.join(OTHER).exists());
    assert!(!version.join("other.data").exists());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_or_truncated_weights_are_refused_by_name() {
    let server = Server::builder().model("m", &model("tiny/b")).start().await;
    let source = oddly_named(server.home());
    let weights = source.join(OTHER);
    let file = fs::File::options().write(true).open(&weights).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    let refusal = server.update("m", Some(&source)).await.unwrap_err();
    assert_eq!(refusal.kind, "contract", "{refusal:?}");
    assert!(refusal.message.contains("bytes of Constant_7_attr"), "{refusal:?}");
    fs::remove_file(weights).unwrap();
    let refusal = server.update("m", Some(&source)).await.unwrap_err();
    let expected =
        "model.onnx needs Constant_7_attr, which is missing; download it beside the model";
    assert!(refusal.message.contains(expected), "{refusal:?}");
    serves(&server, "b").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_are_still_being_copied_are_refused_and_served_once_whole() {
    let server = Server::builder().model("m", &model("tiny/b")).start().await;
    let source = server.home().models().join("copied");
    replace_model(&model("tiny/external"), &source);
    let weights = source.join(LOCATION);
    let whole = fs::read(&weights).unwrap();
    for written in [0, whole.len() / 2] {
        // As with a program that reserves the space of the file first.
        let copied = [&whole[..written], &vec![0; whole.len() - written]].concat();
        fs::write(&weights, copied).unwrap();
        let refusal = server.update("m", Some(&source)).await.unwrap_err();
        assert_eq!(refusal.kind, "incomplete", "{refusal:?}");
        assert!(refusal.message.contains("model.onnx_data ends with"), "{refusal:?}");
        serves(&server, "b").await;
    }
    fs::write(&weights, whole).unwrap();
    server.update("m", Some(&source)).await.unwrap();
    serves(&server, "a").await;
    server.stop().await;
}
