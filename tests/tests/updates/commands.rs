//! Output of the commands, with and without a running server.

use std::{os::unix::fs::PermissionsExt, path::Path};

use e2e::{fixtures::model, home::Home, launch, server::Server};
use serde_json::Value;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn assert_keys(value: &Value, expected: &[&str]) {
    for key in expected {
        assert!(keys(value).contains(key), "{key} is missing from {value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_update_print_the_documented_json() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let output = server.cli(&["status", "--json"]).await;
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
    assert_keys(&status, &["models", "workers"]);
    assert_keys(&status["models"][0], &["name", "generation", "version", "task"]);
    assert_eq!(status["models"][0]["task"], "embed");
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 2);
    for (id, worker) in workers.iter().enumerate() {
        assert_keys(worker, &["id", "pid", "cpu", "state", "generations", "restarts"]);
        assert_eq!(worker["id"], id);
        assert!(worker["state"].is_string());
        assert_eq!(worker["generations"]["m"], 1);
        assert_eq!(worker["restarts"], 0);
    }

    let b = model("tiny/b");
    let arguments = ["update", "m", "--from", b.to_str().unwrap(), "--load", "lazy", "--json"];
    let output = server.cli(&arguments).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let line = String::from_utf8(output.stdout).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    let committed: Value = serde_json::from_str(&line).unwrap();
    let expected = ["model", "generation", "version", "previous_generation", "load", "seconds"];
    assert_keys(&committed, &expected);
    assert_eq!(keys(&committed).len(), expected.len(), "{committed}");
    assert_eq!((&committed["model"], &committed["load"]), (&"m".into(), &"lazy".into()));
    assert_eq!(
        (&committed["generation"], &committed["previous_generation"]),
        (&2.into(), &1.into())
    );
    assert!(committed["seconds"].as_f64().unwrap() > 0.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_without_json_print_readable_text() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let output = server.cli(&["status"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains('m'), "{text}");
    let missing = server.cli(&["update", "m", "--from", "/nowhere"]).await;
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    let reason = String::from_utf8(missing.stderr).unwrap();
    assert!(reason.contains("/nowhere"), "{reason}");
    let output = server.cli(&["update", "m"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains('2'), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_model_is_refused() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    for refusal in [
        server.update("other", None).await.unwrap_err(),
        server.rollback("other", None).await.unwrap_err(),
    ] {
        assert_eq!(refusal.kind, "not_found", "{refusal:?}");
        assert!(refusal.message.contains("other"), "{refusal:?}");
    }
    let usage = server.cli(&["update", "../m"]).await;
    assert_eq!(usage.status.code(), Some(64), "{usage:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_can_use_the_admin_socket() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let mode = std::fs::metadata(server.home().admin_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_commands_name_the_sockets_they_tried() {
    let home = Home::new();
    let socket = home.admin_socket();
    let socket = socket.to_str().unwrap();
    for command in [&["status"][..], &["update", "m"], &["rollback", "m"]] {
        let output = launch::run(&home, &[command, &["--admin-socket", socket]].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let reason = String::from_utf8(output.stderr).unwrap();
        assert!(reason.contains(socket), "{reason}");
    }
    // Without an argument, it lists every path that it tried.
    let output = launch::run(&home, &["status"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let reason = String::from_utf8(output.stderr).unwrap();
    assert!(Path::new("/run/onnxd").exists() || reason.contains("/run/onnxd"), "{reason}");
}
