//! Versions of MLflow that are not ready, or change during the download. `real/` has the rest.

use std::sync::atomic::{AtomicUsize, Ordering};

use onnxd_proto::domain::fetch::FetchErrorKind;
use serde_json::json;

use crate::{
    double::{Asked, Double, Reply},
    fetch::Fetch,
};

/// Serves version 3 of `minilm` with one file of these bytes.
fn answer(asked: &Asked, status: &str, content: &str) -> Reply {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    match path {
        "/api/2.0/mlflow/registered-models/alias" => Reply::ok(
            json!({"model_version": {"version": "3", "status": status, "creation_timestamp": 5}})
                .to_string(),
        ),
        "/api/2.0/mlflow/model-versions/get-download-uri" => {
            Reply::ok(r#"{"artifact_uri": "models:/m-1"}"#)
        }
        "/api/2.0/mlflow/logged-models/m-1" => Reply::ok(
            r#"{"model": {"info": {"artifact_uri": "mlflow-artifacts:/0/models/m-1/artifacts"}}}"#,
        ),
        "/api/2.0/mlflow-artifacts/artifacts" => {
            assert_eq!(query, "path=0%2Fmodels%2Fm-1%2Fartifacts");
            let file = json!({"path": "model.onnx", "is_dir": false, "file_size": content.len()});
            Reply::ok(json!({"files": [file]}).to_string())
        }
        "/api/2.0/mlflow-artifacts/artifacts/0/models/m-1/artifacts/model.onnx" => {
            Reply::ok(content)
        }
        _ => Reply::status(404),
    }
}

fn fetch_of(server: &Double) -> Fetch {
    let fetch = Fetch::of("mlflow://minilm@prod").with("MLFLOW_TRACKING_URI", server.url(""));
    fetch.with("MLFLOW_TRACKING_TOKEN", "token")
}

#[test]
fn only_a_version_that_is_ready_and_stays_so_is_downloaded() {
    let server = Double::start(|asked| answer(asked, "READY", "content"));
    let mut fetch = fetch_of(&server);
    let snapshot = fetch.all().unwrap();
    assert_eq!(
        (snapshot.id.as_str(), fetch.read("model.onnx")),
        ("mlflow:minilm/3:5", b"content".to_vec())
    );
    assert!(server.asked().iter().all(|asked| asked.header("authorization") == "Bearer token"));
    fetch.about.known = Some(snapshot.id);
    assert_eq!(fetch.resolve().unwrap(), None);
    assert_eq!(server.asked().len(), 1);

    let server = Double::start(|asked| answer(asked, "PENDING_REGISTRATION", "content"));
    assert_eq!(fetch_of(&server).kind(), FetchErrorKind::Incomplete);

    let listings = AtomicUsize::new(0);
    let server = Double::start(move |asked| {
        let is_listing = asked.path.contains("artifacts?path=");
        match listings.fetch_add(usize::from(is_listing), Ordering::Relaxed) {
            0 | 1 if !is_listing => answer(asked, "READY", "content"),
            0 => answer(asked, "READY", "content"),
            _ => answer(asked, "READY", "changed content"),
        }
    });
    assert_eq!(fetch_of(&server).kind(), FetchErrorKind::Incomplete);
}

#[test]
fn a_missing_server_is_named() {
    let error = Fetch::of("mlflow://minilm/3").fails();
    assert_eq!(error.kind, FetchErrorKind::Configuration);
    assert!(error.message.contains("MLFLOW_TRACKING_URI"), "{error}");
}

#[test]
fn empty_folders_of_a_version_do_not_count_as_files() {
    let server = Double::start(|asked| match asked.path.split_once("artifacts?path=") {
        Some((_, path)) if path.ends_with("empty") => Reply::ok(r#"{"files": []}"#),
        Some(_) => {
            let folder = |name| json!({"path": name, "is_dir": true});
            let file = json!({"path": "model.onnx", "is_dir": false, "file_size": 7});
            let files = [file, folder("an-empty"), folder("another-empty")];
            Reply::ok(json!({"files": files}).to_string())
        }
        None => answer(asked, "READY", "content"),
    });
    let fetch = fetch_of(&server);
    fetch.all().unwrap();
    assert_eq!(fetch.files(), ["model.onnx"]);
}
