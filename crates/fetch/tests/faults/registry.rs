//! Registries that ask for tokens, and blobs that are not what the manifest says.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use onnxd_proto::domain::fetch::FetchErrorKind;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    double::{Asked, Double, Reply},
    fetch::{Fetch, bytes, sha256},
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

/// Returns a folder with a configuration of Docker that has a password for the registry.
fn docker_config(registry: &Double) -> TempDir {
    let docker = tempfile::tempdir().unwrap();
    let config = json!({"auths": {registry.authority(): {"username": "user", "password": "pass"}}});
    fs::write(docker.path().join("config.json"), config.to_string()).unwrap();
    docker
}

#[test]
fn a_token_is_fetched_with_the_password_and_used_without_it() {
    let address = Arc::new(Mutex::new(String::new()));
    let own = Arc::clone(&address);
    let registry = Double::start(move |asked| {
        let is_token = asked.path.starts_with("/token");
        match (asked.header("authorization"), is_token) {
            ("Basic dXNlcjpwYXNz", true) => Reply::ok(r#"{"token": "granted"}"#),
            ("Bearer granted", false) => answer(asked, b"content"),
            _ => Reply::status(401).header(
                "WWW-Authenticate",
                format!(
                    "Bearer realm=\"{}/token\",service=\"test\",scope=\"repository:org/m:pull\"",
                    own.lock().unwrap()
                ),
            ),
        }
    });
    *address.lock().unwrap() = registry.url("");
    let docker = docker_config(&registry);
    let source = format!("oci://{}/org/m:v1", registry.authority());
    let fetch = Fetch::of(source.clone());
    let error = fetch.fails();
    assert_eq!(error.kind, FetchErrorKind::Unauthorized);
    assert!(error.message.contains("docker login"), "{error}");
    registry.asked();

    let mut fetch = fetch.with("DOCKER_CONFIG", docker.path().to_string_lossy());
    let snapshot = fetch.all().unwrap();
    assert_eq!(fetch.read("model.onnx"), b"content");
    let asked: Vec<String> =
        registry.lines().into_iter().filter(|line| line.contains("/token")).collect();
    assert_eq!(asked, ["GET /token?service=test&scope=repository%3Aorg%2Fm%3Apull"]);
    fetch.about.known = Some(snapshot.id);
    assert_eq!(fetch.resolve().unwrap(), None);
    let asked = registry.lines();
    assert_eq!((asked.len(), &*asked[0]), (3, "HEAD /v2/org/m/manifests/v1"), "{asked:?}");
    assert_eq!(asked[2], asked[0], "the first is refused, and a token fetched");
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

#[test]
fn a_redirect_to_another_server_gets_no_password() {
    let other = Arc::new(Mutex::new(String::new()));
    let realm = Arc::clone(&other);
    let stranger = Double::start(move |_| {
        let realm = realm.lock().unwrap();
        Reply::status(401).header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
    });
    *other.lock().unwrap() = stranger.url("/token");
    let target = stranger.url("/blob");
    let registry = Double::start(move |asked| match asked.path.contains("/blobs/") {
        true => Reply::redirect(target.clone()),
        false => answer(asked, b"content"),
    });
    let docker = docker_config(&registry);
    let fetch = Fetch::of(format!("oci://{}/org/m:v1", registry.authority()));
    let error = fetch.with("DOCKER_CONFIG", docker.path().to_string_lossy()).fails();
    assert_eq!(error.kind, FetchErrorKind::Unauthorized, "{error}");
    assert_eq!(stranger.lines(), ["GET /blob"], "its challenge is not answered");
}

#[test]
fn a_password_is_sent_to_no_other_server_in_plain_text() {
    let tokens = Double::start(|_| Reply::ok(r#"{"token": "granted"}"#));
    let challenge = format!("Bearer realm=\"{}\"", tokens.url("/token"));
    let registry = Double::start(move |asked| match asked.header("authorization") {
        "Bearer granted" => answer(asked, b"content"),
        _ => Reply::status(401).header("WWW-Authenticate", challenge.clone()),
    });
    let docker = docker_config(&registry);
    let fetch = Fetch::of(format!("oci://{}/org/m:v1", registry.authority()));
    let error = fetch.with("DOCKER_CONFIG", docker.path().to_string_lossy()).fails();
    assert_eq!(error.kind, FetchErrorKind::Unauthorized, "{error}");
    assert!(error.message.contains("https"), "{error}");
    assert!(tokens.asked().is_empty());
}

/// Returns a layer: a tar archive of these files.
fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Serves an image with these layers as `org/m:v1`.
fn image(layers: Vec<Vec<u8>>) -> Double {
    let described: Vec<_> = layers
        .iter()
        .map(|layer| {
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": layer.len(),
                   "digest": format!("sha256:{}", sha256(layer))})
        })
        .collect();
    let manifest = json!({"schemaVersion": 2, "layers": described}).to_string();
    let digest = format!("sha256:{}", sha256(manifest.as_bytes()));
    Double::start(move |asked| match asked.path.strip_prefix("/v2/org/m/") {
        Some(path) if path.starts_with("manifests/") => {
            Reply::ok(manifest.clone()).header("Docker-Content-Digest", digest.clone())
        }
        Some(path) => {
            let digest = path.trim_start_matches("blobs/sha256:");
            let found = layers.iter().find(|layer| sha256(layer) == digest);
            found.map_or(Reply::status(404), |layer| Reply::ok(layer.clone()))
        }
        None => Reply::status(404),
    })
}

/// Takes the requests so far and returns how many were for blobs.
fn blobs(registry: &Double) -> usize {
    registry.lines().iter().filter(|line| line.contains("/blobs/")).count()
}

#[test]
fn an_image_may_have_a_layer_twice() {
    let (one, two) = (bytes(2 << 20), vec![2; 2 << 20]);
    let first = layer(&[("models/model.onnx", &one)]);
    let second = layer(&[("models/model.onnx", &two)]);
    let registry = image(vec![first.clone(), second, first]);
    let fetch = Fetch::of(format!("oci://{}/org/m:v1", registry.authority()));
    fetch.all().unwrap();
    assert!(fetch.read("model.onnx") == one, "the last layer counts");
    assert_eq!(blobs(&registry), 2);
}

#[test]
fn layers_are_downloaded_once_until_their_files_are_staged() {
    let registry = image(vec![layer(&[("models/model.onnx", b"x"), ("models/a", b"y")])]);
    let mut fetch = Fetch::of(format!("oci://{}/org/m:v1", registry.authority()));
    // A caller that only wants the id causes no download.
    fetch.about.id_only = true;
    let id = fetch.resolve().unwrap().unwrap().id;
    assert_eq!(blobs(&registry), 0);
    fetch.about.id_only = false;
    // The caller ends before it downloads the files.
    let snapshot = fetch.resolve().unwrap().unwrap();
    assert_eq!((&snapshot.id, snapshot.files.len(), blobs(&registry)), (&id, 2, 1));
    fetch.all().unwrap();
    assert_eq!((fetch.files().len(), blobs(&registry)), (2, 0));
}
