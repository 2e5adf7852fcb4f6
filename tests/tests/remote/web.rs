//! Caddy, with and without TLS and passwords, and tinyproxy before it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    fetch::Fetch,
    files::{Files, checksums, numbered, write},
    gate::{GLOBAL, caddy},
    kind::{Credentials, Kind},
    scenario,
    servers::{PASSWORD_HASH, Server, USER, free_port, wait_until},
};

/// Caddy, which serves a directory. Below `private/` it asks for a password.
struct Web {
    server: Server,
    tls: u16,
    directory: TempDir,
}

impl Web {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (plain, tls) = (free_port(), free_port());
        let root = directory.path().join("files");
        fs::create_dir_all(&root).unwrap();
        let sites = [
            format!("http://127.0.0.1:{plain} {{"),
            format!("https://localhost:{tls} {{\n tls internal"),
        ]
        .map(|site| {
            let private = format!(" basic_auth /private/* {{\n  {USER} {PASSWORD_HASH}\n }}\n");
            format!("{site}\n root * {}\n{private} file_server\n}}\n", root.display())
        });
        let path = directory.path().join("Caddyfile");
        fs::write(&path, format!("{GLOBAL}{}", sites.concat())).unwrap();
        let command = caddy(&path, directory.path());
        let server = Server::start(command, plain, directory.path());
        let web = Self { server, tls, directory };
        let ca = web.ca();
        wait_until("Caddy's CA", || ca.exists());
        web
    }

    /// Returns Caddy's own CA.
    fn ca(&self) -> PathBuf {
        self.directory.path().join("caddy/pki/authorities/local/root.crt")
    }

    /// Uploads files and then their checksums to a folder.
    fn upload(&self, folder: &str, files: &Files, pause: Duration) {
        let root = self.root().join(folder);
        for (path, content) in files {
            write(&root, &vec![(path.clone(), content.clone())]);
            thread::sleep(pause);
        }
        fs::write(root.join("SHA256SUMS"), checksums(files)).unwrap();
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    fn publish_numbered(&self, number: u8) {
        self.upload("m", &numbered(number), Duration::ZERO);
    }
}

impl Kind for Web {
    fn source(&self) -> String {
        format!("https://localhost:{}/private/m/", self.tls)
    }

    fn variables(&self, credentials: Credentials) -> Vec<(&'static str, String)> {
        let netrc = self.directory.path().join(format!("netrc-{credentials:?}"));
        let password = credentials.password();
        fs::write(&netrc, format!("machine localhost login {USER} password {password}\n")).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        vec![("SSL_CERT_FILE", text(&self.ca())), ("NETRC", text(&netrc))]
    }

    fn remedy(&self) -> &'static str {
        "netrc do not give access"
    }

    fn publish(&mut self, files: &Files, pause: Duration) {
        self.upload("private/m", files, pause);
    }

    fn servers(&mut self) -> Vec<&mut Server> {
        vec![&mut self.server]
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
async fn onnxd_serves_a_model_from_caddy() {
    scenario::prove(Web::start()).await;
}

#[test]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
fn caddy_serves_versions() {
    let web = Web::start();
    let fetch = Fetch::of(web.server.url("/m/"));
    assert_eq!(fetch.resolve(None).failure(), "incomplete");
    web.publish_numbered(1);
    let first = fetch.download(&numbered(1));
    assert!(fetch.resolve(Some(first.id())).is_unchanged());
    // A file of the next version is there, and the rest is not.
    write(&web.root().join("m"), &numbered(2)[1..].to_vec());
    let torn = Fetch::of(web.server.url("/m/"));
    let paths = ["config.json", "onnx/model file.onnx"].map(str::to_owned);
    assert_eq!(torn.run_all(&paths).failure(), "incomplete");
    web.publish_numbered(2);
    let second = fetch.download(&numbered(2));
    assert_ne!(first.id(), second.id());
    drop(web);
    assert_eq!(fetch.resolve(Some(second.id())).failure(), "unreachable");
}

#[test]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
fn a_proxy_tunnels_tls_and_forwards_the_rest() {
    let web = Web::start();
    web.publish_numbered(1);
    let directory = web.directory.path();
    let port = free_port();
    let log = directory.join("tinyproxy.log");
    let path = directory.join("tinyproxy.conf");
    let settings = format!(
        "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 60\nBasicAuth user hunter2\n\
         LogLevel Connect\nLogFile \"{}\"\n",
        log.display()
    );
    fs::write(&path, settings).unwrap();
    let mut command = Command::new("tinyproxy");
    command.arg("-d").arg("-c").arg(path);
    let _proxy = Server::start(command, port, directory);
    let address = |password: &str| format!("http://user:{password}@127.0.0.1:{port}");
    let source = format!("https://localhost:{}/m/", web.tls);
    let fetch = Fetch::of(&source).with("SSL_CERT_FILE", web.ca().to_string_lossy());
    let fetch = fetch.with("HTTPS_PROXY", address("hunter2"));
    wait_until("Caddy's certificate", || fetch.resolve(None).failure().is_empty());
    fetch.download(&numbered(1));
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains(&format!("CONNECT localhost:{}", web.tls)), "{log}");
    let refused = fetch.with("HTTPS_PROXY", address("wrongpass")).resolve(None);
    assert_eq!(refused.failure(), "unauthorized");
    assert!(!refused.text().contains("wrongpass"), "{refused:?}");
    let plain = Fetch::of(web.server.url("/m/")).with("HTTP_PROXY", address("hunter2"));
    plain.download(&numbered(1));
    // Without the CA, the certificate is not trusted.
    assert_eq!(Fetch::of(source).resolve(None).failure(), "unreachable");
}
