//! MLflow with its own storage of artifacts, behind Caddy, which asks for a password. Takes minutes to
//! install, so only `--all` does.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    fetch::Fetch,
    files::{Files, numbered, write},
    gate::gate,
    kind::{Credentials, Hook, Kind},
    scenario,
    servers::{PASSWORD, Server, USER, free_port, program},
};

/// Registers directories as versions of `minilm` with the alias `prod`, and webhooks. Reads a command
/// from each line, because the import takes seconds.
const CLIENT: &str = "
import json, sys, mlflow
from mlflow.tracking import MlflowClient
mlflow.set_tracking_uri(sys.argv[1])
client = MlflowClient()
for line in sys.stdin:
    command = json.loads(line)
    if 'webhook' in command:
        events = ['model_version_alias.created']
        client.create_webhook('onnxd', command['webhook'], events, secret=command['secret'])
    else:
        if not client.search_registered_models():
            client.create_registered_model('minilm')
        with mlflow.start_run() as run:
            mlflow.log_artifacts(command['directory'], 'model')
            source = mlflow.get_artifact_uri('model')
            version = client.create_model_version('minilm', source, run.info.run_id)
            client.set_registered_model_alias('minilm', 'prod', version.version)
    print('done', flush=True)
";
/// A key that MLflow accepts for the secrets of webhooks: 32 bytes in base64.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

struct Mlflow {
    server: Server,
    gate: Server,
    client: Child,
    answers: BufReader<std::process::ChildStdout>,
    /// Number of directories that were registered.
    registered: u32,
    directory: TempDir,
}

impl Mlflow {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new(program("mlflow"));
        command.args(["server", "--host", "127.0.0.1", "--workers", "1", "--serve-artifacts"]);
        command.args(["--port", &port.to_string()]);
        let database = directory.path().join("mlflow.db");
        command.arg("--backend-store-uri").arg(format!("sqlite:///{}", database.display()));
        command.arg("--artifacts-destination").arg(directory.path().join("artifacts"));
        // onnxd's address is neither https nor public here.
        command.env("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http");
        command.env("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true");
        command.env("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", KEY);
        // For a minute, it would not notice the new webhook.
        command.env("MLFLOW_WEBHOOK_CACHE_TTL", "1");
        let server = Server::start(command, port, directory.path());
        let login = BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let gate = gate(&server, &format!("Basic {login}"), directory.path());
        let mut command = Command::new(program("python"));
        command.arg("-c").arg(CLIENT).arg(server.url("")).env("NO_PROXY", "*");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = command.spawn().unwrap();
        let answers = BufReader::new(client.stdout.take().unwrap());
        Self { server, gate, client, answers, registered: 0, directory }
    }

    fn run(&mut self, command: &Value) {
        writeln!(self.client.stdin.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        // The client also prints links to its runs.
        while line.trim() != "done" {
            line.clear();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "{command} failed");
        }
    }

    fn register(&mut self, files: &Files) {
        self.registered += 1;
        let folder = self.directory.path().join(self.registered.to_string());
        write(&folder, files);
        self.run(&json!({"directory": folder}));
    }
}

impl Drop for Mlflow {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

impl Kind for Mlflow {
    fn source(&self) -> String {
        "mlflow://minilm@prod".to_owned()
    }

    fn variables(&self, credentials: Credentials) -> Vec<(&'static str, String)> {
        vec![
            ("MLFLOW_TRACKING_URI", self.gate.url("")),
            ("MLFLOW_TRACKING_USERNAME", USER.to_owned()),
            ("MLFLOW_TRACKING_PASSWORD", credentials.password().to_owned()),
        ]
    }

    fn remedy(&self) -> &'static str {
        "MLFLOW_TRACKING_PASSWORD or netrc does not give access"
    }

    fn publish(&mut self, files: &Files, _pause: Duration) {
        self.register(files);
    }

    fn servers(&mut self) -> Vec<&mut Server> {
        vec![&mut self.server, &mut self.gate]
    }

    /// MLflow itself sends the notification.
    async fn publish_and_notify(&mut self, files: &Files, hook: &Hook) {
        self.run(&json!({"webhook": hook.url(), "secret": hook.secret}));
        self.register(files);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs MLflow; run by `cargo xtask test-sources --all`"]
async fn onnxd_serves_a_model_from_mlflow() {
    scenario::prove(Mlflow::start()).await;
}

#[test]
#[ignore = "needs MLflow; run by `cargo xtask test-sources --all`"]
fn mlflow_serves_versions() {
    let mut mlflow = Mlflow::start();
    mlflow.register(&numbered(1));
    let variables = mlflow.variables(Credentials::Right);
    let of = |source: &str| Fetch::of(source).with_all(variables.clone());
    let fetch = of("mlflow://minilm@prod");
    let first = fetch.download(&numbered(1));
    assert!(first.id().starts_with("mlflow:minilm/1:"), "{first:?}");
    assert!(fetch.resolve(Some(first.id())).is_unchanged());
    mlflow.register(&numbered(2));
    assert!(fetch.download(&numbered(2)).id().starts_with("mlflow:minilm/2:"));
    assert_eq!(of("models:/minilm/1").download(&numbered(1)).id(), first.id());
    assert_eq!(of("mlflow://minilm/9").resolve(None).failure(), "not_found");
    assert_eq!(of("mlflow://none@prod").resolve(None).failure(), "not_found");
}
