//! Caddy, with and without TLS, and tinyproxy before it.

use std::{fs, process::Command};

use tempfile::TempDir;

use crate::{
    fetch::{Fetch, checksums, model, write},
    servers::{Server, free_port, program, wait_until},
};

/// Starts Caddy for a directory. Returns the port with TLS, too.
fn caddy(directory: &TempDir) -> (Server, u16) {
    let (plain, tls) = (free_port(), free_port());
    let root = directory.path().join("files");
    fs::create_dir_all(&root).unwrap();
    let sites = [
        format!("http://127.0.0.1:{plain} {{"),
        format!("https://localhost:{tls} {{\n tls internal"),
    ]
    .map(|site| format!("{site}\n root * {}\n file_server\n}}\n", root.display()));
    let global = "{\n admin off\n skip_install_trust\n auto_https disable_redirects\n}\n";
    let path = directory.path().join("Caddyfile");
    fs::write(&path, format!("{global}{}", sites.concat())).unwrap();
    let mut command = Command::new(program("caddy"));
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(path);
    command.env("XDG_DATA_HOME", directory.path()).env("XDG_CONFIG_HOME", directory.path());
    (Server::start(&mut command, plain, directory.path()), tls)
}

fn upload(directory: &TempDir, number: u8) {
    let root = directory.path().join("files/m");
    let files = model(number);
    write(&root, &files);
    fs::write(root.join("SHA256SUMS"), checksums(&files)).unwrap();
}

#[test]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
fn caddy_serves_versions() {
    let directory = tempfile::tempdir().unwrap();
    let (server, _) = caddy(&directory);
    let fetch = Fetch::of(server.url("/m/"));
    assert_eq!(fetch.resolve(None).failure(), "malformed");
    upload(&directory, 1);
    let first = fetch.download(&model(1));
    assert!(fetch.resolve(Some(first.id())).is_unchanged());
    // A file of the next version is there, and the rest is not.
    write(&directory.path().join("files/m"), &model(2)[1..]);
    let torn = Fetch::of(server.url("/m/"));
    let paths = ["config.json", "onnx/model file.onnx"].map(str::to_owned);
    assert_eq!(torn.run_all(&paths).failure(), "incomplete");
    upload(&directory, 2);
    let second = fetch.download(&model(2));
    assert_ne!(first.id(), second.id());
    drop(server);
    assert_eq!(fetch.resolve(Some(second.id())).failure(), "unreachable");
}

#[test]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
fn a_proxy_tunnels_tls_and_forwards_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let (server, tls) = caddy(&directory);
    upload(&directory, 1);
    let ca = directory.path().join("caddy/pki/authorities/local/root.crt");
    wait_until("Caddy's CA", || ca.exists());
    let port = free_port();
    let log = directory.path().join("tinyproxy.log");
    let path = directory.path().join("tinyproxy.conf");
    let settings = format!(
        "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 60\nBasicAuth user hunter2\n\
         LogLevel Connect\nLogFile \"{}\"\n",
        log.display()
    );
    fs::write(&path, settings).unwrap();
    let mut command = Command::new("tinyproxy");
    let _proxy = Server::start(command.arg("-d").arg("-c").arg(path), port, directory.path());
    let address = |password: &str| format!("http://user:{password}@127.0.0.1:{port}");
    let source = format!("https://localhost:{tls}/m/");
    let fetch = Fetch::of(&source).with("SSL_CERT_FILE", ca.to_string_lossy());
    let fetch = fetch.with("HTTPS_PROXY", address("hunter2"));
    wait_until("Caddy's certificate", || fetch.resolve(None).failure().is_empty());
    fetch.download(&model(1));
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains(&format!("CONNECT localhost:{tls}")), "{log}");
    let refused = fetch.with("HTTPS_PROXY", address("wrongpass")).resolve(None);
    assert_eq!(refused.failure(), "unauthorized");
    assert!(!refused.text().contains("wrongpass"), "{refused:?}");
    Fetch::of(server.url("/m/")).with("HTTP_PROXY", address("hunter2")).download(&model(1));
    // Without the CA, the certificate is not trusted.
    assert_eq!(Fetch::of(source).resolve(None).failure(), "unreachable");
}
