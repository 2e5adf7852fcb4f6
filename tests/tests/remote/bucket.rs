//! SeaweedFS, which checks signatures. Files are uploaded through its filer, without signing.

use std::{fs, process::Command, thread, time::Duration};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    fetch::Fetch,
    files::{Files, checksums, numbered},
    http::send,
    kind::{Credentials, Kind},
    scenario,
    servers::{PASSWORD, Server, free_port, program, wait_until},
};

/// SeaweedFS with the bucket `models`.
struct Bucket {
    server: Server,
    filer: u16,
    _directory: TempDir,
}

impl Bucket {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [master, volume, filer, s3] = [(); 4].map(|()| free_port());
        let credentials = json!([{"accessKey": "key", "secretKey": PASSWORD}]);
        let identity =
            json!({"name": "me", "credentials": credentials, "actions": ["Read", "List"]});
        let config = directory.path().join("s3.json");
        fs::write(&config, json!({"identities": [identity]}).to_string()).unwrap();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        let mut command = Command::new(program("weed"));
        command.arg("server").arg(format!("-dir={}", data.display()));
        command.arg(format!("-s3.config={}", config.display()));
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-volume.max=8"]);
        command.args(["-master.volumeSizeLimitMB=64", "-master.telemetry=false"]);
        // These would listen on fixed ports.
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
        for name in ["filer", "s3"] {
            let socket = directory.path().join(name);
            command.arg(format!("-{name}.localSocket={}", socket.display()));
        }
        for (name, port) in [("master", master), ("volume", volume), ("filer", filer), ("s3", s3)] {
            command.arg(format!("-{name}.port={port}"));
        }
        let server = Server::start(command, s3, directory.path());
        Self { server, filer, _directory: directory }
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = path.replace(' ', "%20");
        let url = format!("http://127.0.0.1:{}/buckets/models/{path}", self.filer);
        let headers = [("Content-Type", "application/octet-stream")];
        // The volumes are there some seconds after the filer.
        wait_until(&url, || send("PUT", &url, &headers, bytes).status == 201);
    }

    fn upload(&self, prefix: &str, files: &Files, pause: Duration) {
        for (path, bytes) in files {
            self.put(&format!("{prefix}/{path}"), bytes);
            thread::sleep(pause);
        }
    }

    /// Uploads files and then their checksums.
    fn upload_with_checksums(&self, prefix: &str, files: &Files, pause: Duration) {
        self.upload(prefix, files, pause);
        self.put(&format!("{prefix}/SHA256SUMS"), &checksums(files));
    }
}

impl Kind for Bucket {
    fn source(&self) -> String {
        "s3://models/served/m".to_owned()
    }

    fn variables(&self, credentials: Credentials) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.server.url("")),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", credentials.password().to_owned()),
        ]
    }

    fn remedy(&self) -> &'static str {
        "AWS_SECRET_ACCESS_KEY"
    }

    fn publish(&mut self, files: &Files, pause: Duration) {
        self.upload_with_checksums("served/m", files, pause);
    }

    fn servers(&mut self) -> Vec<&mut Server> {
        vec![&mut self.server]
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
async fn onnxd_serves_a_model_from_seaweedfs() {
    scenario::prove(Bucket::start()).await;
}

#[test]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
fn seaweedfs_serves_versions() {
    let bucket = Bucket::start();
    bucket.upload_with_checksums("team/m", &numbered(1), Duration::ZERO);
    let of = |source: &str, credentials| Fetch::of(source).with_all(bucket.variables(credentials));
    let right = |source: &str| of(source, Credentials::Right);
    let fetch = right("s3://models/team/m");
    let first = fetch.download(&numbered(1));
    assert_eq!(first.snapshot()["pin"], "checksums");
    assert!(fetch.resolve(Some(first.id())).is_unchanged());
    bucket.upload_with_checksums("team/m", &numbered(2), Duration::ZERO);
    assert_ne!(fetch.download(&numbered(2)).id(), first.id());

    // Without checksums, the listing is the snapshot once no object is new.
    bucket.upload("listed", &numbered(3), Duration::ZERO);
    let listed = right("s3://models/listed");
    assert_eq!(listed.resolve(None).failure(), "incomplete");
    thread::sleep(Duration::from_secs(61));
    let said = listed.download(&numbered(3));
    assert_eq!(said.snapshot()["pin"], "listing");
    assert!(listed.resolve(Some(said.id())).is_unchanged());

    let refused = of("s3://models/team/m", Credentials::Wrong).resolve(None);
    assert_eq!(refused.failure(), "unauthorized");
    for said in [refused, first] {
        crate::secrets::assert_none("the fetcher", &said.text());
    }
    assert_eq!(right("s3://models/none").resolve(None).failure(), "not_found");
    assert_eq!(right("s3://nothing/m").resolve(None).failure(), "not_found");
}
