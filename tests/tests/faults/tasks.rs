//! A panic in an essential task makes the supervisor exit with 70, so that its service manager
//! restarts it. Debug builds panic on request; see `crates/engine/src/tasks.rs`.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use e2e::{fixtures::model, launch::free_address, server::Server};
use serde_json::json;

/// The essential tasks of a server with all listeners.
const TASKS: [&str; 7] = [
    "updates of m",
    "dispatcher",
    "HTTP listener",
    "gRPC listener",
    "gRPC health",
    "admin listener",
    "admin socket",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_an_essential_task_exits_with_70() {
    for task in TASKS {
        panic_in(task).await;
    }
}

async fn panic_in(task: &str) {
    let builder = Server::builder().model("m", &model("tiny/a")).workers(1);
    let home = builder.directories();
    let (trigger, token) = (home.root().join("panic"), home.root().join("token"));
    fs::write(&token, "0123456789abcdef0123456789abcdef").expect("the token file can be written");
    fs::set_permissions(&token, Permissions::from_mode(0o600)).expect("the mode can be set");
    let mut server = builder
        .variable("ONNXD_PANIC_TASK", task)
        .variable("ONNXD_PANIC_FILE", trigger.to_str().expect("UTF-8"))
        .argument(&format!("--grpc-listen={}", free_address()))
        .argument(&format!("--admin-listen={}", free_address()))
        .argument(&format!("--admin-token-file={}", token.display()))
        .start()
        .await;
    let answer = server.client().await.post("/embed", &json!({"inputs": "a"})).await;
    let answer = answer.expect("the server answers");
    assert_eq!(answer.status, 200, "{task}: {}", answer.text());
    fs::write(&trigger, "").expect("the trigger can be written");
    let exit = server.wait().await;
    let log = server.stderr();
    assert_eq!(exit.code(), Some(70), "{task}: {exit}: {log}");
    assert!(log.contains(&format!("panic requested by a test: {task}")), "{task}: {log}");
    assert!(log.contains("ended"), "{task}: {log}");
}
