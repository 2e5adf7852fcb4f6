//! SeaweedFS, which checks signatures. Files are uploaded through its filer, without signing.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use serde_json::json;

use crate::{
    fetch::{Fetch, checksums, model},
    http::send,
    servers::{Server, free_port, program, wait_until},
};

/// Starts SeaweedFS. Returns the filer's port, too.
fn seaweed(directory: &Path) -> (Server, u16) {
    let [master, volume, filer, s3] = [(); 4].map(|()| free_port());
    let credentials = json!([{"accessKey": "key", "secretKey": "very-secret"}]);
    let identity = json!({"name": "me", "credentials": credentials, "actions": ["Read", "List"]});
    let config = directory.join("s3.json");
    fs::write(&config, json!({"identities": [identity]}).to_string()).unwrap();
    let data = directory.join("data");
    fs::create_dir(&data).unwrap();
    let mut command = Command::new(program("weed"));
    command.arg("server").arg(format!("-dir={}", data.display()));
    command.arg(format!("-s3.config={}", config.display()));
    command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-volume.max=8"]);
    command.arg("-master.volumeSizeLimitMB=64");
    for (name, port) in [("master", master), ("volume", volume), ("filer", filer), ("s3", s3)] {
        command.arg(format!("-{name}.port={port}"));
    }
    (Server::start(&mut command, s3, directory), filer)
}

fn put(filer: u16, path: &str, bytes: &[u8]) {
    let path = path.replace(' ', "%20");
    let url = format!("http://127.0.0.1:{filer}/buckets/models/{path}");
    // The volumes are there some seconds after the filer.
    wait_until(&url, || send("PUT", &url, "application/octet-stream", bytes).status == 201);
}

fn upload(filer: u16, prefix: &str, number: u8) {
    for (path, bytes) in &model(number) {
        put(filer, &format!("{prefix}/{path}"), bytes);
    }
}

#[test]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
fn seaweedfs_serves_versions() {
    let directory = tempfile::tempdir().unwrap();
    let (server, filer) = seaweed(directory.path());
    upload(filer, "team/m", 1);
    put(filer, "team/m/SHA256SUMS", &checksums(&model(1)));
    let bucket = |source: &str, secret: &str| {
        let fetch = Fetch::of(source).with("AWS_ENDPOINT_URL", server.url(""));
        fetch.with("AWS_ACCESS_KEY_ID", "key").with("AWS_SECRET_ACCESS_KEY", secret)
    };
    let fetch = bucket("s3://models/team/m", "very-secret");
    let first = fetch.download(&model(1));
    assert_eq!(first.snapshot()["pin"], "checksums");
    assert!(fetch.resolve(Some(first.id())).is_unchanged());
    upload(filer, "team/m", 2);
    put(filer, "team/m/SHA256SUMS", &checksums(&model(2)));
    assert_ne!(fetch.download(&model(2)).id(), first.id());

    // Without checksums, the listing is the snapshot once no object is new.
    upload(filer, "listed", 3);
    let listed = bucket("s3://models/listed", "very-secret");
    assert_eq!(listed.resolve(None).failure(), "incomplete");
    thread::sleep(Duration::from_secs(61));
    let said = listed.download(&model(3));
    assert_eq!(said.snapshot()["pin"], "listing");
    assert!(listed.resolve(Some(said.id())).is_unchanged());

    let refused = bucket("s3://models/team/m", "wrong-secret").resolve(None);
    assert_eq!(refused.failure(), "unauthorized");
    assert!(!refused.text().contains("wrong-secret") && !first.text().contains("very-secret"));
    assert_eq!(bucket("s3://models/none", "very-secret").resolve(None).failure(), "not_found");
    assert_eq!(bucket("s3://nothing/m", "very-secret").resolve(None).failure(), "not_found");
}
