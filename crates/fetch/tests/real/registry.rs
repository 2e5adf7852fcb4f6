//! docker-registry, with files as layers, as ORAS pushes them, and with images, as KServe has them.

use std::{fs, io::Write as _, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    fetch::{Fetch, model, sha256},
    http::send,
    servers::{Server, free_port},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn registry(directory: &Path) -> Server {
    let port = free_port();
    let data = directory.join("registry");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
        data.display()
    );
    let config = directory.join("registry.yml");
    fs::write(&config, text).unwrap();
    let mut command = Command::new("docker-registry");
    Server::start(command.arg("serve").arg(config), port, directory)
}

/// Uploads a blob and returns its descriptor.
fn push(server: &Server, repository: &str, type_: &str, bytes: &[u8]) -> Value {
    let digest = format!("sha256:{}", sha256(bytes));
    let begun = send("POST", &server.url(&format!("/v2/{repository}/blobs/uploads/")), "", b"");
    let location = begun.header("Location").unwrap();
    let done =
        send("PUT", &format!("{location}&digest={digest}"), "application/octet-stream", bytes);
    assert_eq!(done.status, 201);
    json!({"mediaType": type_, "digest": digest, "size": bytes.len()})
}

/// Tags a manifest with these layers and returns its digest.
fn tag(server: &Server, repository: &str, layers: &[Value]) -> String {
    let config = push(server, repository, "application/vnd.oci.empty.v1+json", b"{}");
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let text = manifest.to_string();
    let url = server.url(&format!("/v2/{repository}/manifests/v1"));
    let answer = send("PUT", &url, MANIFEST, text.as_bytes());
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    format!("oci:sha256:{}", sha256(text.as_bytes()))
}

fn files(server: &Server, number: u8) -> String {
    let layers: Vec<Value> = model(number)
        .iter()
        .map(|(path, bytes)| {
            let mut layer = push(server, "org/files", "application/octet-stream", bytes);
            layer["annotations"] = json!({"org.opencontainers.image.title": path});
            layer
        })
        .collect();
    tag(server, "org/files", &layers)
}

fn image(server: &Server, number: u8) -> String {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in &model(number) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("models/{path}"), bytes.as_slice()).unwrap();
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive.into_inner().unwrap()).unwrap();
    let type_ = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layer = push(server, "org/image", type_, &gzip.finish().unwrap());
    tag(server, "org/image", &[layer])
}

#[test]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
fn docker_registry_serves_digests() {
    let directory = tempfile::tempdir().unwrap();
    let server = registry(directory.path());
    for name in ["files", "image"] {
        let push = if name == "files" { files } else { image };
        let first = push(&server, 1);
        let repository = format!("oci://127.0.0.1:{}/org/{name}", server.port);
        let fetch = Fetch::of(format!("{repository}:v1"));
        assert_eq!(fetch.download(&model(1)).id(), first);
        assert!(fetch.resolve(Some(&first)).is_unchanged());
        let second = push(&server, 2);
        assert_eq!(fetch.download(&model(2)).id(), second);
        // The tag moved on, and the digest still names the first version.
        let pinned = Fetch::of(format!("{repository}@{}", first.trim_start_matches("oci:")));
        assert_eq!(pinned.download(&model(1)).id(), first);
    }
    let none = Fetch::of(format!("oci://127.0.0.1:{}/org/none:v1", server.port));
    assert_eq!(none.resolve(None).failure(), "not_found");
}
