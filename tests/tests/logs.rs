//! What operators read: each request has an id, the access log names clients and routes but no secrets,
//! the level changes while the server runs, and refused requests and killed workers are explained.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use e2e::{
    client::{Response, exchange},
    eventually,
    exposition::Exposition,
    fixtures::{self, model},
    grpc::{self, INFER},
    launch::{self, Builder},
    processes::{self, Signal},
    server::Server,
};
use hyper::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tonic::Request;

const SOON: Duration = Duration::from_secs(30);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Returns a server that logs requests as JSON.
fn logging(mode: &str) -> Builder {
    logging_text(mode).argument("--log-format=json")
}

fn logging_text(mode: &str) -> Builder {
    let builder = Server::builder().model("m", &model("tiny/a"));
    builder.argument(&format!("--access-log={mode}"))
}

/// Waits for this many lines of the access log and returns their fields.
async fn access(server: &Server, count: usize) -> Vec<Value> {
    let entry = |line: &str| {
        let event: Value = serde_json::from_str(line).ok()?;
        (event["target"] == "onnxd::access").then(|| event["fields"].clone())
    };
    eventually("lines of the access log", SOON, async || {
        let entries: Vec<Value> = server.stderr().lines().filter_map(entry).collect();
        (entries.len() >= count).then_some(entries)
    })
    .await
}

async fn embed(server: &Server, path: &str, headers: &[(&str, &str)]) -> Response {
    let body = json!({"inputs": "a"}).to_string();
    let headers = [&[("content-type", "application/json")], headers].concat();
    let mut client = server.client().await;
    client.send_with(Method::POST, path, &headers, body.into()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_logged_with_ids_but_without_path_and_query() {
    let server = logging("all").argument("--cors-allow-origin=*").start().await;
    // `start` has polled the routes of health.
    let before = access(&server, 1).await.len();
    let sent = [("x-request-id", "order-66"), ("traceparent", TRACEPARENT)];
    let response = embed(&server, "/embed?token=SECRET", &sent).await;
    assert_eq!((response.status, response.header("x-request-id")), (200, Some("order-66")));
    let exposed = embed(&server, "/embed", &[("origin", "https://a.example")]).await;
    let exposed = exposed.header("access-control-expose-headers").unwrap().to_owned();
    assert!(exposed.contains("x-request-id"), "{exposed}");
    let long = "x".repeat(129);
    let made = embed(&server, "/SECRET", &[("x-request-id", &long), ("traceparent", "00-1")]).await;
    assert_eq!(made.status, 404);
    let made = made.header("x-request-id").unwrap().to_owned();
    assert!(made.len() == 32 && made.bytes().all(|digit| digit.is_ascii_hexdigit()), "{made}");

    let entries = access(&server, before + 3).await.split_off(before);
    let entry = &entries[0];
    for (field, expected) in [
        ("method", json!("POST")),
        ("route", json!("/embed")),
        ("status", json!(200)),
        ("model", json!("m")),
        ("generation", json!(1)),
        ("request_bytes", json!(json!({"inputs": "a"}).to_string().len())),
        ("response_bytes", json!(response.body.len())),
        ("client", json!("127.0.0.1")),
        ("request_id", json!("order-66")),
        ("trace_id", json!(TRACE)),
    ] {
        assert_eq!(entry[field], expected, "{field}: {entry}");
    }
    let millis = |field: &str| entry[field].as_f64().unwrap();
    assert!(millis("duration_ms") >= millis("queue_ms") + millis("infer_ms"), "{entry}");
    let entry = &entries[2];
    assert_eq!((&entry["route"], &entry["status"]), (&json!("other"), &json!(404)), "{entry}");
    assert_eq!(entry["request_id"], json!(made));
    assert!(entry.get("trace_id").is_none(), "{entry}");
    assert!(!server.stderr().contains("SECRET"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_cannot_forge_lines_or_fields_of_the_log() {
    let server = logging_text("all").start().await;
    let forged = "a\" status=500 client=6.6.6.6 b=\"\\n";
    let headers = [("x-request-id", forged), ("x-forwarded-for", "6.6.6.6\" x=\"")];
    assert_eq!(embed(&server, "/embed", &headers).await.header("x-request-id"), Some(forged));
    let expected = r#"request_id="a\" status=500 client=6.6.6.6 b=\"\\n""#;
    let line = eventually("the line", SOON, async || {
        let log = server.stderr();
        log.lines().find(|line| line.contains(expected)).map(str::to_owned)
    })
    .await;
    assert!(line.contains(" status=200 ") && line.contains(" client=127.0.0.1 "), "{line}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
    let server = logging("all").argument("--trusted-proxy=127.0.0.0/8,10.0.0.0/8").start().await;
    let before = access(&server, 1).await.len();
    for (header, value) in [
        ("x-forwarded-for", "6.6.6.6, 198.51.100.9, 10.0.0.2"),
        ("forwarded", "for=6.6.6.6, for=\"[2001:db8::1]:99\""),
        ("x-forwarded-for", "no address"),
    ] {
        embed(&server, "/embed", &[(header, value)]).await;
    }
    let entries = access(&server, before + 3).await.split_off(before);
    let clients: Vec<_> = entries.iter().map(|entry| entry["client"].as_str().unwrap()).collect();
    assert_eq!(clients, ["198.51.100.9", "2001:db8::1", "127.0.0.1"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_logged_and_others_by_ratio() {
    for mode in ["errors", "sampled=0"] {
        let server = logging(mode).start().await;
        // `start` was answered 503 at first, perhaps.
        let not_found = |entry: &Value| entry["status"] == 404;
        embed(&server, "/embed", &[]).await;
        embed(&server, "/nowhere", &[]).await;
        let entries = eventually("the error", SOON, async || {
            let entries = access(&server, 1).await;
            entries.iter().any(not_found).then_some(entries)
        })
        .await;
        assert!(entries.iter().all(|entry| entry["status"] != 200), "{entries:?}");
        server.stop().await;
    }
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    embed(&server, "/nowhere", &[]).await;
    let log = server.stderr();
    server.stop().await;
    assert!(!log.contains("onnxd::access"), "off by default: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_is_logged_as_499() {
    let server = logging("errors").tolerates_stopped_workers().start().await;
    for pid in server.worker_pids().await {
        processes::signal(pid, Signal::SIGSTOP);
    }
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let head = "POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let request = format!("{head}content-length: 14\r\n\r\n{{\"inputs\":\"a\"}}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let waiting = "onnxd_items_in_flight";
    eventually("the request waits", SOON, async || {
        let text = server.client().await.get("/metrics").await.unwrap().text();
        (Exposition::parse(&text).unwrap().value(waiting, &[]) > 0.0).then_some(())
    })
    .await;
    drop(stream);
    eventually("the line", SOON, async || {
        let entries = access(&server, 1).await;
        entries.iter().any(|it| it["status"] == 499 && it["route"] == "/embed").then_some(())
    })
    .await;
    for pid in server.worker_pids().await {
        processes::signal(pid, Signal::SIGCONT);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_grpc_are_identified_and_logged() {
    let server = grpc::listening(logging_text("all")).start().await;
    let mut client = grpc::client(&server).await;
    let mut call = Request::new(grpc::texts("m", &[("text", &["a"])]));
    call.metadata_mut().insert("x-request-id", "call-1".parse().unwrap());
    call.metadata_mut().insert("traceparent", TRACEPARENT.parse().unwrap());
    let answer = client.model_infer(call).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "call-1");
    let error = client.model_infer(grpc::texts("none", &[("text", &["a"])])).await.unwrap_err();
    assert!(error.metadata().get("x-request-id").is_some(), "{error:?}");
    let lines = eventually("two lines", SOON, async || {
        let log = server.stderr();
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains(INFER)).map(str::to_owned).collect();
        (lines.len() == 2).then_some(lines)
    })
    .await;
    for part in
        ["status=200 model=\"m\" generation=1 ", "request_id=\"call-1\"", TRACE, "client=127.0.0.1"]
    {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
    assert!(!lines[0].contains("request_bytes=0 ") && !lines[0].contains("response_bytes=0 "));
    assert!(lines[1].contains("grpc_status=5 "), "{}", lines[1]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_changes_while_the_server_runs() {
    let server = Server::builder().model("m", &model("tiny/a")).workers(2).start().await;
    let filter = async |arguments: &[&str]| {
        let output = server.cli(&[&["log"], arguments].concat()).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(filter(&[]).await, "info\n");
    assert_eq!(filter(&["info,onnxd_worker=debug"]).await, "info,onnxd_worker=debug\n");
    let shown = serde_json::from_str::<Value>(&filter(&["--json"]).await).unwrap();
    assert_eq!(shown, json!({"filter": "info,onnxd_worker=debug", "format": "text"}));
    eventually("the server and both workers follow", SOON, async || {
        let log = server.stderr();
        (log.matches("changing the log filter").count() == 3).then_some(())
    })
    .await;

    let refused = server.cli(&["log", "inof"]).await;
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("\"inof\"") && message.contains("debug or trace"), "{message}");
    assert_eq!(filter(&[]).await, "info,onnxd_worker=debug\n");

    // A new process begins with the filter in effect.
    assert_eq!(filter(&["error"]).await, "error\n");
    let worker = server.worker_pids().await[0];
    processes::signal(worker, Signal::SIGKILL);
    let status = server.restarted(1).await;
    let started = status.workers[0].pid.unwrap();
    assert_ne!(started, worker);
    let environment = processes::environment(started);
    assert!(environment.iter().any(|variable| variable == "ONNXD_LOG=error"), "{environment:?}");
    let log = server.stderr();
    assert!(!log.contains("worker exited"), "a warning is below the level: {log}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_of_the_log_are_refused_at_start() {
    for (variable, value, allowed) in [
        ("ONNXD_LOG", "inof", "off, error, warn, info, debug or trace"),
        ("ONNXD_LOG", "=json", "TARGET=LEVEL"),
        ("ONNXD_LOG_FORMAT", "yaml", "text or json"),
        ("ONNXD_ACCESS_LOG", "some", "off, errors, all or sampled=RATIO"),
        ("ONNXD_TRUSTED_PROXY", "proxy.example", "10.0.0.0/8"),
    ] {
        for check in [&[][..], &["--check-config"]] {
            let builder = Server::builder().model("m", &model("tiny/a")).variable(variable, value);
            let builder = check.iter().fold(builder, |builder, flag| builder.argument(flag));
            let exited = builder.try_start().await.expect_err("the server must not start");
            assert_eq!(exited.code, Some(78), "{variable}={value}: {}", exited.stderr);
            for part in [variable, value, allowed] {
                assert!(exited.stderr.contains(part), "{part}: {}", exited.stderr);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_counted_and_logged_without_a_flood() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let send = async |request: String| {
        exchange(server.address(), request.as_bytes(), SOON).await.unwrap().status()
    };
    let headers: String = (0..101).map(|number| format!("h{number}: x\r\n")).collect();
    assert_eq!(send(format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n")).await, Some(431));
    let headers: String = (0..99).map(|number| format!("h{number}: x\r\n")).collect();
    let request = format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    assert_eq!(send(request).await, Some(431), "99 and 2 are too many");
    let headers: String = (0..98).map(|number| format!("h{number}: x\r\n")).collect();
    let request = format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    assert_eq!(send(request).await, Some(200), "100 are allowed");
    for _ in 0..30 {
        assert_eq!(send("SECRET nonsense\r\n\r\n".into()).await, Some(400));
    }
    let name = "onnxd_requests_malformed_total";
    eventually("the counts", SOON, async || {
        let text = server.client().await.get("/metrics").await.unwrap().text();
        let metrics = Exposition::parse(&text).unwrap();
        let count = |reason| format!("{}", metrics.value(name, &[("reason", reason)]));
        (count("too_large") == "2" && count("invalid") == "30").then_some(())
    })
    .await;
    let log = server.stderr();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("malformed request")).collect();
    assert_eq!(lines.len(), 10, "{log}");
    assert!(lines.iter().all(|line| line.contains("client=127.0.0.1")), "{lines:?}");
    assert!(!log.contains("SECRET"), "{log}");
    server.stop().await;
}

/// A control group that limits memory. Removed on drop.
struct MemoryGroup {
    folder: PathBuf,
    limit: &'static str,
}

impl MemoryGroup {
    /// Returns `None` if this machine allows none.
    fn create() -> Option<Self> {
        let name = format!("onnxd-test-{}", std::process::id());
        let (root, limit) = match Path::new("/sys/fs/cgroup/memory") {
            version_1 if version_1.is_dir() => (version_1, "memory.limit_in_bytes"),
            _ => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let folder = root.join(name);
        if fs::create_dir(&folder).is_err() {
            eprintln!("skipped: this user may not create control groups");
            return None;
        }
        let group = Self { folder, limit };
        if !group.folder.join(limit).exists() {
            eprintln!("skipped: this machine has no memory control group");
            return None;
        }
        Some(group)
    }

    /// Returns a shell command that moves the shell into this group.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.folder.display())
    }

    fn limit(&self, bytes: &str) {
        fs::write(self.folder.join(self.limit), bytes).unwrap();
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The last process may not be reaped yet.
        e2e::soon(SOON, || fs::remove_dir(&self.folder).is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_for_memory_is_logged_as_such() {
    let Some(group) = MemoryGroup::create() else { return };
    let builder = Server::builder().model("m", &model("tiny/a")).workers(1);
    let script = builder.directories().root().join("limited");
    let onnxd = fixtures::onnxd();
    let text = format!("#!/bin/sh\n{}\nexec {} \"$@\"\n", group.enter(), onnxd.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let server = builder.executable(&script).start().await;

    // The kernel takes the worker first, then the process that needs all this memory.
    let worker = server.worker_pids().await[0];
    fs::write(format!("/proc/{worker}/oom_score_adj"), "1000").unwrap();
    group.limit("536870912");
    let script = format!("{} && ulimit -v 2000000 && exec tail /dev/zero", group.enter());
    let hog = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(!hog.success(), "{hog}");
    server.restarted(1).await;
    let log = server.stderr();
    let line = log.lines().find(|line| line.contains("worker exited")).unwrap();
    assert!(line.contains("signal 9, out of memory (oom_kill of the control group is "), "{line}");

    // A kill by a person is not.
    eventually("the kernel's other kill is logged", SOON, async || {
        server.stderr().contains("out-of-memory kill of another process").then_some(())
    })
    .await;
    processes::signal(server.worker_pids().await[0], Signal::SIGKILL);
    server.restarted(2).await;
    let log = server.stderr();
    let line = log.lines().rfind(|line| line.contains("worker exited")).unwrap();
    assert!(line.contains("reason=\"signal 9\""), "{line}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_command_needs_a_server() {
    let home = e2e::home::Home::new();
    let output = launch::run(&home, &["log", "debug", "--admin-socket", "/nowhere"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
