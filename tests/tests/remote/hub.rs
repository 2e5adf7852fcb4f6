//! olah, which serves Git repositories with large files as a hub, behind Caddy, which asks for a token.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    fetch::Fetch,
    files::{Files, numbered, write},
    gate::gate,
    kind::{Credentials, Hook, Kind, accepted},
    scenario,
    servers::{PASSWORD, Server, free_port, program},
};

/// olah with the repository `org/name`.
struct Hub {
    server: Server,
    gate: Server,
    repository: PathBuf,
    _directory: TempDir,
}

impl Hub {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let repository = directory.path().join("mirrors/models/org/name");
        fs::create_dir_all(&repository).unwrap();
        git(&repository, &["init", "-q", "-b", "main"]);
        git(&repository, &["lfs", "install", "--local"]);
        git(&repository, &["lfs", "track", "*.onnx"]);
        let port = free_port();
        let config = directory.path().join("olah.toml");
        let at = |name: &str| directory.path().join(name).display().to_string();
        let text = format!(
            "[basic]\nhost = \"127.0.0.1\"\nport = {port}\nrepos-path = \"{}\"\nmirrors-path = [\"{}\"]\n\
             log-path = \"{}\"\n[accessibility]\noffline = true\n",
            at("repos"),
            at("mirrors"),
            at("logs")
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program("olah-cli"));
        command.arg("--config").arg(config);
        let server = Server::start(command, port, directory.path());
        let gate = gate(&server, &format!("Bearer {PASSWORD}"), directory.path());
        Self { server, gate, repository, _directory: directory }
    }

    /// Commits files and returns the commit.
    fn commit(&self, files: &Files) -> String {
        write(&self.repository, files);
        git(&self.repository, &["add", "-A"]);
        git(&self.repository, &["commit", "-q", "-m", "next"]);
        git(&self.repository, &["rev-parse", "HEAD"])
    }
}

fn git(repository: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(repository).args(["-c", "user.name=test", "-c", "user.email=test@example"]);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", repository);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Kind for Hub {
    fn source(&self) -> String {
        "hf://org/name".to_owned()
    }

    fn variables(&self, credentials: Credentials) -> Vec<(&'static str, String)> {
        vec![("HF_ENDPOINT", self.gate.url("")), ("HF_TOKEN", credentials.password().to_owned())]
    }

    fn remedy(&self) -> &'static str {
        "HF_TOKEN"
    }

    fn publish(&mut self, files: &Files, _pause: Duration) {
        self.commit(files);
    }

    fn servers(&mut self) -> Vec<&mut Server> {
        vec![&mut self.server, &mut self.gate]
    }

    /// olah sends none, so the test does, in the form of the hub.
    async fn publish_and_notify(&mut self, files: &Files, hook: &Hook) {
        let commit = self.commit(files);
        let body = json!({
            "event": {"action": "update", "scope": "repo.content"},
            "repo": {"type": "model", "name": "org/name", "headSha": commit},
        });
        accepted(&hook.send(("x-webhook-secret", hook.secret), &body).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
async fn onnxd_serves_a_model_from_olah() {
    scenario::prove(Hub::start()).await;
}

#[test]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
fn olah_serves_commits() {
    let hub = Hub::start();
    let first = hub.commit(&numbered(1));
    let of = |source: &str| Fetch::of(source).with_all(hub.variables(Credentials::Right));
    let fetch = of("hf://org/name");
    let said = fetch.download(&numbered(1));
    assert_eq!(said.id(), format!("hf:{first}"));
    assert!(fetch.resolve(Some(said.id())).is_unchanged());
    let second = hub.commit(&numbered(2));
    assert_eq!(fetch.download(&numbered(2)).id(), format!("hf:{second}"));
    // The older commit is still complete.
    let older = of(&format!("hf://org/name@{first}"));
    assert_eq!(older.download(&numbered(1)).id(), format!("hf:{first}"));
    // A hub does not tell whether a model is private or does not exist.
    assert_eq!(of("hf://org/none").resolve(None).failure(), "unauthorized");
}
