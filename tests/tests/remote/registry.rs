//! docker-registry, with files as layers, as ORAS pushes them, and with images, as KServe has them.

use std::{fs, process::Command, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    fetch::Fetch,
    files::{Files, numbered, sha256, write},
    http::{Answer, send},
    kind::{Credentials, Kind},
    scenario,
    servers::{PASSWORD_HASH, Server, USER, free_port},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry that asks for a password.
struct Registry {
    server: Server,
    directory: TempDir,
}

impl Registry {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let passwords = directory.path().join("htpasswd");
        fs::write(&passwords, format!("{USER}:{PASSWORD_HASH}\n")).unwrap();
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\nauth: {{htpasswd: {{realm: models, path: {}}}}}\n",
            directory.path().join("registry").display(),
            passwords.display()
        );
        let config = directory.path().join("registry.yml");
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config);
        let server = Server::start(command, port, directory.path());
        Self { server, directory }
    }

    fn send(&self, method: &str, url: &str, type_: &str, body: &[u8]) -> Answer {
        let login = format!("Basic {}", login(Credentials::Right));
        send(method, url, &[("Content-Type", type_), ("Authorization", &login)], body)
    }

    /// Uploads a blob and returns its descriptor.
    fn push(&self, repository: &str, type_: &str, bytes: &[u8]) -> Value {
        let digest = format!("sha256:{}", sha256(bytes));
        let url = self.server.url(&format!("/v2/{repository}/blobs/uploads/"));
        let begun = self.send("POST", &url, "application/octet-stream", b"");
        let location = begun.header("Location").unwrap();
        let url = format!("{location}&digest={digest}");
        assert_eq!(self.send("PUT", &url, "application/octet-stream", bytes).status, 201);
        json!({"mediaType": type_, "digest": digest, "size": bytes.len()})
    }

    /// Tags a manifest with these layers and returns its digest.
    fn tag(&self, repository: &str, layers: &[Value]) -> String {
        let config = self.push(repository, "application/vnd.oci.empty.v1+json", b"{}");
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let text = manifest.to_string();
        let url = self.server.url(&format!("/v2/{repository}/manifests/v1"));
        let answer = self.send("PUT", &url, MANIFEST, text.as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
        format!("oci:sha256:{}", sha256(text.as_bytes()))
    }

    /// Pushes files as layers.
    fn push_files(&self, repository: &str, files: &Files) -> String {
        let layer = |(path, bytes): &(String, Vec<u8>)| {
            let mut layer = self.push(repository, "application/octet-stream", bytes);
            layer["annotations"] = json!({"org.opencontainers.image.title": path});
            layer
        };
        self.tag(repository, &files.iter().map(layer).collect::<Vec<_>>())
    }

    /// Pushes files as an image.
    fn push_image(&self, repository: &str, files: &Files) -> String {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("models"), files);
        let mut command = Command::new("tar");
        command.args(["-cz", "-C"]).arg(folder.path()).arg("models");
        let archive = command.output().unwrap();
        assert!(archive.status.success(), "{archive:?}");
        let type_ = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layer = self.push(repository, type_, &archive.stdout);
        self.tag(repository, &[layer])
    }

    fn uri(&self, repository: &str) -> String {
        format!("oci://127.0.0.1:{}/{repository}", self.server.port)
    }
}

/// Returns the user and password as Docker's configuration and HTTP encode them.
fn login(credentials: Credentials) -> String {
    BASE64_STANDARD.encode(format!("{USER}:{}", credentials.password()))
}

impl Kind for Registry {
    fn source(&self) -> String {
        self.uri("org/m:v1")
    }

    fn variables(&self, credentials: Credentials) -> Vec<(&'static str, String)> {
        let folder = self.directory.path().join(format!("docker-{credentials:?}"));
        fs::create_dir_all(&folder).unwrap();
        let host = format!("127.0.0.1:{}", self.server.port);
        let config = json!({"auths": {host: {"auth": login(credentials)}}});
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        vec![("DOCKER_CONFIG", folder.to_str().unwrap().to_owned())]
    }

    fn remedy(&self) -> &'static str {
        "config.json"
    }

    fn publish(&mut self, files: &Files, _pause: Duration) {
        self.push_files("org/m", files);
    }

    fn servers(&mut self) -> Vec<&mut Server> {
        vec![&mut self.server]
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
async fn onnxd_serves_a_model_from_docker_registry() {
    scenario::prove(Registry::start()).await;
}

#[test]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
fn docker_registry_serves_digests() {
    let registry = Registry::start();
    let of = |source: &str| Fetch::of(source).with_all(registry.variables(Credentials::Right));
    for repository in ["org/files", "org/image"] {
        let push = |number| match repository {
            "org/files" => registry.push_files(repository, &numbered(number)),
            _ => registry.push_image(repository, &numbered(number)),
        };
        let first = push(1);
        let uri = registry.uri(repository);
        let fetch = of(&format!("{uri}:v1"));
        assert_eq!(fetch.download(&numbered(1)).id(), first);
        assert!(fetch.resolve(Some(&first)).is_unchanged());
        let second = push(2);
        assert_eq!(fetch.download(&numbered(2)).id(), second);
        // The tag moved on, and the digest still names the first version.
        let pinned = of(&format!("{uri}@{}", first.trim_start_matches("oci:")));
        assert_eq!(pinned.download(&numbered(1)).id(), first);
    }
    let none = of(&registry.uri("org/none:v1"));
    assert_eq!(none.resolve(None).failure(), "not_found");
}
