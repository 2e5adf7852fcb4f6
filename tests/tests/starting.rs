//! What a server answers while it starts, and when a model cannot be loaded: probes from the first
//! moment, a reason for everything that is not served, and no model that stops the others.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]

use std::{
    fs,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use e2e::{
    client::{Client, Response},
    eventually,
    fixtures::{self, model, replace_model},
    grpc,
    home::Home,
    processes::Signal,
    server::Server,
    web::{Web, upload},
};
use serde_json::{Value, json};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const SOON: Duration = Duration::from_secs(60);

/// A web server whose folder `m` is empty.
fn empty_source(home: &Home) -> (Web, PathBuf) {
    let folder = home.root().join("web/m");
    fs::create_dir_all(&folder).unwrap();
    (Web::start(folder.parent().unwrap()), folder)
}

async fn get(server: &Server, path: &str) -> Response {
    server.client().await.get(path).await.unwrap()
}

async fn embed(server: &Server, model: &str) -> Response {
    let body = json!({"inputs": "a", "model": model});
    server.client().await.post("/embed", &body).await.unwrap()
}

/// Returns the reason of `/v2/health/ready`, or `None` if the server is ready.
async fn not_ready(server: &Server) -> Option<String> {
    let response = get(server, "/v2/health/ready").await;
    let body: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(body["ready"], response.status == 200, "{body}");
    body["reason"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_while_the_first_model_is_waited_for() {
    let home = Arc::new(Home::new());
    let (web, folder) = empty_source(&home);
    web.take_away(true);
    let spec = format!("m={}", web.uri("m"));
    let builder = Server::builder().home(&home).argument("--model").argument(&spec);
    let mut server = grpc::listening(builder).spawn();
    eventually("an open port", SOON, async || Client::connect(server.address()).await.ok()).await;

    let reason = eventually("the reason", SOON, async || {
        not_ready(&server).await.filter(|reason| reason.starts_with("waiting"))
    })
    .await;
    assert!(reason.contains("model m") && !reason.contains("127.0.0.1"), "{reason}");
    assert_eq!(get(&server, "/v2/health/live").await.status, 200);
    assert_eq!(get(&server, "/metrics").await.status, 200);
    let health = get(&server, "/health").await;
    assert!(health.status == 503 && health.text().contains("waiting"), "{}", health.text());
    assert_ne!(get(&server, "/v2/models/m/ready").await.status, 200);
    let answer = embed(&server, "m").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some() && answer.text().contains("waiting"));
    let status = server.cli(&["status"]).await;
    let shown = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && shown.starts_with("STARTING: waiting"), "{shown}");
    assert!(shown.contains(&web.uri("m")), "{shown}");
    let mut health = HealthClient::new(grpc::channel(&server).await);
    let not_serving = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();

    upload(&model("tiny/a"), &folder);
    web.take_away(false);
    server.ready().await.unwrap();
    assert_eq!(embed(&server, "m").await.status, 200);
    let serving = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_ne!(not_serving.status, serving.status);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_model_is_reported_and_served_once_it_is_mended() {
    let builder = Server::builder();
    let broken = builder.directories().root().join("broken");
    replace_model(&model("tiny/no_tokenizer"), &broken);
    let builder = builder.model("broken", &broken).model("good", &model("tiny/a"));
    let server = builder.argument("--poll=broken=1").start().await;

    assert_eq!(embed(&server, "good").await.status, 200);
    let answer = embed(&server, "broken").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_ne!(get(&server, "/v2/models/broken/ready").await.status, 200);
    assert_eq!(get(&server, "/v2/models/good/ready").await.status, 200);
    let status = server.cli(&["status"]).await;
    let shown = String::from_utf8_lossy(&status.stdout);
    assert!(shown.contains("broken: not served: ") && shown.contains("tokenizer.json"), "{shown}");
    assert!(server.stderr().contains("model not served"), "{}", server.stderr());

    replace_model(&model("tiny/b"), &broken);
    eventually("the mended model", SOON, async || {
        (embed(&server, "broken").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(get(&server, "/v2/models/broken/ready").await.status, 200);
    let shown = server.cli(&["status"]).await;
    assert!(!String::from_utf8_lossy(&shown.stdout).contains("not served"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_model_that_is_broken_ends_the_start() {
    let broken = model("tiny/no_tokenizer");
    let builder = Server::builder().model("broken", &broken).model("good", &model("tiny/a"));
    for required in ["broken", "all"] {
        let builder = builder.clone().argument("--require").argument(required);
        let exited = builder.try_start().await.expect_err("a required model is broken");
        assert_eq!(exited.code, Some(78), "{}", exited.stderr);
        assert!(exited.stderr.contains("--model broken: "), "{}", exited.stderr);
    }
    builder.argument("--require=good").start().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_model_whose_source_is_away_keeps_no_other_from_serving() {
    let home = Arc::new(Home::new());
    let (web, folder) = empty_source(&home);
    web.take_away(true);
    let spec = format!("m={}", web.uri("m"));
    let builder = Server::builder().home(&home).argument("--model").argument(&spec);
    let server = builder.argument("--poll=m=1").model("good", &model("tiny/a")).start().await;
    assert_eq!(embed(&server, "good").await.status, 200);
    let answer = embed(&server, "m").await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.headers.contains_key("retry-after"), "{:?}", answer.headers);
    upload(&model("tiny/b"), &folder);
    web.take_away(false);
    server.generation_above("m", 0).await;
    assert_eq!(embed(&server, "m").await.status, 200);
    server.stop().await;
}

/// Returns `MALLOC_ARENA_MAX` of a process.
fn arenas(pid: i32) -> Option<String> {
    let variables = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let variables = String::from_utf8_lossy(&variables).into_owned();
    let mut pairs = variables.split('\0');
    pairs.find_map(|pair| pair.strip_prefix("MALLOC_ARENA_MAX=").map(str::to_owned))
}

/// Returns whether a process ignores SIGPIPE.
fn ignores_sigpipe(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(ignored.trim(), 16).unwrap() & (1 << (Signal::SIGPIPE as i32 - 1)) != 0
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_limits_its_arenas_and_not_those_of_others() {
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    let builder = Server::builder().model("m", &model("tiny/a"));
    for builder in [builder.clone(), builder.clone().variable("MALLOC_ARENA_MAX", "")] {
        let server = builder.start().await;
        let number: usize = arenas(server.pid()).unwrap().parse().unwrap();
        assert!(number >= 2, "{number}");
        assert_eq!(name(server.pid()), "onnxd\n");
        let line = fs::read(format!("/proc/{}/cmdline", server.pid())).unwrap();
        assert!(line.starts_with(fixtures::onnxd().as_os_str().as_encoded_bytes()));
        assert!(ignores_sigpipe(server.pid()));
        let of_worker = arenas(server.worker_pids().await[0]);
        assert_ne!(of_worker, Some(number.to_string()), "workers have their own settings");
        server.stop().await;
    }
    let server = builder.variable("MALLOC_ARENA_MAX", "7").start().await;
    assert_eq!(arenas(server.pid()).as_deref(), Some("7"), "the operator decides");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_cannot_be_executed_again_serves_as_before() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let path = builder.directories().root().join("onnxd");
    fs::copy(fixtures::onnxd(), &path).unwrap();
    let file = fs::File::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let open = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let server = builder.executable(Path::new(&open)).start().await;
    assert_eq!(arenas(server.pid()), None);
    assert!(ignores_sigpipe(server.pid()), "a closed stderr must not end it");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_started_through_the_loader_serves() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let is_loader = |path: &&str| path.contains("/ld") && path.contains(".so");
    let loader = maps.lines().filter_map(|line| line.split_whitespace().last()).find(is_loader);
    let home = Home::new();
    let script = home.root().join("onnxd.sh");
    let lines = format!(
        "#!/bin/sh\nexec {} {} \"$@\"\n",
        loader.expect("a loader"),
        fixtures::onnxd().display()
    );
    fs::write(&script, lines).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let builder = Server::builder().model("m", &model("tiny/a")).executable(&script);
    let server = builder.start().await;
    assert_eq!(embed(&server, "m").await.status, 200);
    assert_eq!(arenas(server.pid()), None);
    server.stop().await;
}
