//! MLflow with its own storage of artifacts. Takes minutes to install, so only `--all` does.

use std::{path::Path, process::Command};

use crate::{
    fetch::{Fetch, model, write},
    servers::{Server, free_port, program},
};

/// Registers the files of a directory as the next version of `minilm`, with the alias `prod`.
const REGISTER: &str = "
import sys, mlflow
from mlflow.tracking import MlflowClient
mlflow.set_tracking_uri(sys.argv[1])
client = MlflowClient()
if not client.search_registered_models():
    client.create_registered_model('minilm')
with mlflow.start_run() as run:
    mlflow.log_artifacts(sys.argv[2], 'model')
    source = mlflow.get_artifact_uri('model')
    version = client.create_model_version('minilm', source, run.info.run_id)
    client.set_registered_model_alias('minilm', 'prod', version.version)
";

fn mlflow(directory: &Path) -> Server {
    let port = free_port();
    let mut command = Command::new(program("mlflow"));
    command.args(["server", "--host", "127.0.0.1", "--workers", "1", "--serve-artifacts"]);
    command.args(["--port", &port.to_string()]);
    command.arg("--backend-store-uri");
    command.arg(format!("sqlite:///{}", directory.join("mlflow.db").display()));
    command.arg("--artifacts-destination").arg(directory.join("artifacts"));
    Server::start(&mut command, port, directory)
}

fn register(server: &Server, directory: &Path, number: u8) {
    let files = directory.join(number.to_string());
    write(&files, &model(number));
    let mut command = Command::new(program("python"));
    command.arg("-c").arg(REGISTER).arg(server.url("")).arg(files).env("NO_PROXY", "*");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
#[ignore = "needs MLflow; run by `cargo xtask test-sources --all`"]
fn mlflow_serves_versions() {
    let directory = tempfile::tempdir().unwrap();
    let server = mlflow(directory.path());
    register(&server, directory.path(), 1);
    let of = |source: &str| Fetch::of(source).with("MLFLOW_TRACKING_URI", server.url(""));
    let fetch = of("mlflow://minilm@prod");
    let first = fetch.download(&model(1));
    assert!(first.id().starts_with("mlflow:minilm/1:"), "{first:?}");
    assert!(fetch.resolve(Some(first.id())).is_unchanged());
    register(&server, directory.path(), 2);
    assert!(fetch.download(&model(2)).id().starts_with("mlflow:minilm/2:"));
    assert_eq!(of("models:/minilm/1").download(&model(1)).id(), first.id());
    assert_eq!(of("mlflow://minilm/9").resolve(None).failure(), "not_found");
    assert_eq!(of("mlflow://none@prod").resolve(None).failure(), "not_found");
}
