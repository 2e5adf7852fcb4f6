//! Versions that workers can no longer load, because their files were damaged while onnxd runs.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use e2e::{
    admin::{ModelState, WorkerState},
    client::Response,
    disk::Disk,
    eventually, grpc,
    processes::{self, Signal},
    server::Server,
};
use serde_json::json;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{served, tiny};

const TIMEOUT: Duration = Duration::from_secs(30);
const NAMES: [&str; 2] = ["a", "z"];

async fn embed(server: &Server, model: &str) -> Response {
    let body = json!({"inputs": "hello", "model": model});
    server.client().await.post("/embed", &body).await.expect("an answer")
}

async fn probe(server: &Server, path: &str) -> u16 {
    server.client().await.get(path).await.expect("an answer").status
}

async fn model_is_ready(server: &Server, model: &str) -> bool {
    probe(server, &format!("/v2/models/{model}/ready")).await == 200
}

async fn grpc_status(server: &Server) -> ServingStatus {
    let mut client = HealthClient::new(grpc::channel(server).await);
    let answer = client.check(HealthCheckRequest::default()).await.expect("an answer");
    answer.into_inner().status()
}

/// Appends a byte, so that the file no longer parses.
fn damage(file: &Path) {
    fs::set_permissions(file, Permissions::from_mode(0o644)).expect("our file");
    let mut file = OpenOptions::new().append(true).open(file).expect("a writable file");
    file.write_all(b"x").expect("room for a byte");
}

async fn kill_workers(server: &Server) {
    for pid in server.settled().await.pids() {
        processes::signal(pid, Signal::SIGKILL);
    }
}

async fn becomes_unready(server: &Server, model: &str) {
    let what = format!("model {model} is not ready");
    eventually(&what, TIMEOUT, async || {
        let failed = server.status().await.model(model).state == ModelState::Failed;
        (failed && !model_is_ready(server, model).await).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_no_worker_can_load_makes_the_server_unready() {
    let builder = grpc::listening(Server::builder()).workers(2);
    let server = builder.model("a", &tiny("a")).model("z", &tiny("a")).start().await;
    let (generation, version) = served(&server, "a").await;
    damage(&Disk::new(server.home()).version(&version).join("tokenizer.json"));
    kill_workers(&server).await;
    for name in NAMES {
        becomes_unready(&server, name).await;
        let refused = embed(&server, name).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(refused.header("retry-after"), Some("30"));
        for words in ["no worker could load the model", "`onnxd status`"] {
            assert!(refused.text().contains(words), "{}", refused.text());
        }
        assert!(!refused.text().contains("tokenizer.json"), "{}", refused.text());
    }
    let failure = server.status().await.model("a").failure.clone().expect("a reason");
    assert!(failure.contains("tokenizer.json"), "{failure}");
    for path in ["/v2/health/ready", "/health"] {
        assert_eq!(probe(&server, path).await, 503, "{path}");
    }
    assert_eq!(grpc_status(&server).await, ServingStatus::NotServing);

    let healed = server.update("a", Some(&tiny("b"))).await.expect("an update");
    assert!(healed.generation > generation);
    assert_eq!(embed(&server, "a").await.status, 200);
    assert!(model_is_ready(&server, "a").await && server.answers_ready().await);
    assert_eq!(server.status().await.model("a").state, ModelState::Loaded);
    assert_eq!(grpc_status(&server).await, ServingStatus::Serving);
    assert!(!model_is_ready(&server, "z").await, "its version is still damaged");
    server.update("z", None).await.expect("an update from its source");
    assert_eq!(embed(&server, "z").await.status, 200);
    assert!(model_is_ready(&server, "z").await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_models_and_restarts_do_not_affect_readiness() {
    let builder = Server::builder().workers(2).model("a", &tiny("a")).model("z", &tiny("b"));
    let server = builder.start().await;
    let (_, version) = served(&server, "z").await;
    damage(&Disk::new(server.home()).version(&version).join("tokenizer.json"));
    let [first, second] = server.settled().await.pids()[..] else { panic!("two workers") };
    processes::signal(first, Signal::SIGKILL);
    eventually("the first worker is ready again", TIMEOUT, async || {
        let worker = server.status().await.workers.remove(0);
        (worker.restarts == 1 && worker.state == WorkerState::Ready).then_some(())
    })
    .await;
    assert_eq!(embed(&server, "z").await.status, 200, "the other worker still has it");
    assert!(model_is_ready(&server, "z").await && server.answers_ready().await);
    processes::signal(second, Signal::SIGKILL);
    becomes_unready(&server, "z").await;
    assert!(model_is_ready(&server, "a").await && server.answers_ready().await);
    assert_eq!(embed(&server, "a").await.status, 200);
    server.stop().await;
}
