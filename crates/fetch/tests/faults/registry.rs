//! Registries that ask for tokens, and blobs that are not what the manifest says.

use std::fs;

use onnxd_proto::domain::fetch::FetchErrorKind;
use serde_json::json;

use crate::{
    double::{Asked, Double, Reply},
    fetch::{Fetch, sha256},
};

fn manifest(content: &[u8]) -> String {
    json!({"schemaVersion": 2, "layers": [{
        "mediaType": "application/octet-stream",
        "digest": format!("sha256:{}", sha256(content)),
        "size": content.len(),
        "annotations": {"org.opencontainers.image.title": "model.onnx"},
    }]})
    .to_string()
}

/// Serves the repository `org/m` with one file, whose blob contains `sent`.
fn answer(asked: &Asked, sent: &[u8]) -> Reply {
    let manifest = manifest(b"content");
    let digest = format!("sha256:{}", sha256(manifest.as_bytes()));
    match asked.path.strip_prefix("/v2/org/m/") {
        Some("manifests/v1") => Reply::ok(manifest).header("Docker-Content-Digest", digest),
        Some(path) if path == format!("manifests/{digest}") => Reply::ok(manifest),
        Some(path) if path == format!("blobs/sha256:{}", sha256(b"content")) => Reply::ok(sent),
        _ => Reply::status(404),
    }
}

#[test]
fn a_token_is_fetched_with_the_password_and_used_without_it() {
    let tokens = Double::start(|asked| match asked.header("authorization") {
        "Basic dXNlcjpwYXNz" => Reply::ok(r#"{"token": "granted"}"#),
        _ => Reply::status(401),
    });
    let challenge = format!(
        "Bearer realm=\"{}\",service=\"test\",scope=\"repository:org/m:pull\"",
        tokens.url("/token")
    );
    let registry = Double::start(move |asked| match asked.header("authorization") {
        "Bearer granted" => answer(asked, b"content"),
        _ => Reply::status(401).header("WWW-Authenticate", challenge.clone()),
    });
    let docker = tempfile::tempdir().unwrap();
    let config = json!({"auths": {registry.authority(): {"username": "user", "password": "pass"}}});
    fs::write(docker.path().join("config.json"), config.to_string()).unwrap();
    let source = format!("oci://{}/org/m:v1", registry.authority());
    let fetch = Fetch::of(source.clone());
    let error = fetch.fails();
    assert_eq!(error.kind, FetchErrorKind::Unauthorized);
    assert!(error.message.contains("docker login"), "{error}");
    tokens.asked();

    let mut fetch = fetch.with("DOCKER_CONFIG", docker.path().to_string_lossy());
    let snapshot = fetch.all().unwrap();
    assert_eq!(fetch.read("model.onnx"), b"content");
    let asked = tokens.lines();
    assert_eq!(asked, ["GET /token?service=test&scope=repository%3Aorg%2Fm%3Apull"]);
    registry.asked();
    fetch.about.known = Some(snapshot.id);
    assert_eq!(fetch.resolve().unwrap(), None);
    assert_eq!(registry.lines(), ["HEAD /v2/org/m/manifests/v1"; 2], "the first is refused");
}

#[test]
fn a_blob_with_another_digest_is_refused() {
    let registry = Double::start(|asked| answer(asked, b"altered"));
    let fetch = Fetch::of(format!("oci://{}/org/m:v1", registry.authority()));
    assert_eq!(fetch.kind(), FetchErrorKind::Checksum);
    assert!(fetch.files().is_empty() && fetch.parts().is_empty());
}

#[test]
fn a_manifest_with_another_digest_is_refused() {
    let registry = Double::start(|asked| match asked.path.as_str() {
        "/v2/org/m/manifests/v1" => {
            Reply::ok("").header("Docker-Content-Digest", format!("sha256:{}", "a".repeat(64)))
        }
        _ => Reply::ok(manifest(b"content")),
    });
    let fetch = Fetch::of(format!("oci://{}/org/m:v1", registry.authority()));
    assert_eq!(fetch.kind(), FetchErrorKind::Checksum);
}
