//! State directories in which files were edited, replaced or renamed: no wrong answer, no stopped
//! server, and no number that is used twice.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use e2e::{client::Response, disk::Disk, fixtures::model, home::Home, launch, server::Server};
use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use serde_json::json;

async fn start(home: &Arc<Home>, models: &[&str]) -> Server {
    let mut builder = Server::builder().home(home).workers(1);
    for name in models {
        builder = builder.model(name, &model("tiny/a"));
    }
    builder.start().await
}

/// Runs `onnxd state check`. Returns its exit code and output.
async fn check(home: &Home) -> (i32, String) {
    let directory = home.state();
    let arguments = ["state", "check", "--state-dir", directory.to_str().unwrap()];
    let output = tokio::time::timeout(Duration::from_secs(20), launch::run(home, &arguments));
    let output = output.await.expect("a check waits for nothing");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (output.status.code().unwrap(), text)
}

async fn embed(server: &Server, name: &str) -> Response {
    let body = json!({ "model": name, "input": "hello there" });
    server.client().await.post("/v1/embeddings", &body).await.unwrap()
}

async fn damaged_records(server: &Server, name: &str) -> String {
    let metrics = server.client().await.get("/metrics").await.unwrap().text();
    let series = format!("onnxd_state_damaged_records{{model=\"{name}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().to_owned()
}

/// Writes to a file of a version as an editor does.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{}", path.display());
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

const EDITS: [(&str, &str, &str); 2] = [
    ("1_Pooling/config.json", "mean_tokens\": true", "mean_tokens\":  true"),
    ("tokenizer.json", "{", "{ "),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_file_of_a_kept_version_is_not_served() {
    let home = Arc::new(Home::new());
    let server = start(&home, &["m", "n"]).await;
    let committed = server.update("m", Some(&model("tiny/b"))).await.unwrap();
    let (version, mut newest, whole) = (committed.version, committed.generation, 1);
    server.stop().await;
    for ((file, from, to), damaged) in EDITS.into_iter().zip(["1", "2"]) {
        edit(&Disk::new(&home).version(&version).join(file), from, to);
        let (code, shown) = check(&home).await;
        let next = format!("the next start serves generation {whole}");
        assert!(code == 1 && shown.contains(&next), "{file}: {shown}");
        let server = start(&home, &["m", "n"]).await;
        let answer = embed(&server, "m").await;
        assert_eq!((answer.status, answer.generation()), (200, Some(whole)), "{file}");
        assert_eq!(embed(&server, "n").await.generation(), Some(1), "{file}");
        assert_eq!(damaged_records(&server, "m").await, damaged, "{file}");
        assert_eq!(damaged_records(&server, "n").await, "0", "{file}");
        let log = server.stderr();
        assert!(log.contains(&format!("{file} was changed")), "{file}: {log}");
        // The same content is staged again.
        let again = server.update("m", Some(&model("tiny/b"))).await.unwrap();
        assert_eq!((again.version, again.generation), (version.clone(), newest + 1), "{file}");
        newest += 1;
        server.stop().await;
        let server = start(&home, &["m", "n"]).await;
        assert_eq!(embed(&server, "m").await.generation(), Some(newest), "{file}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_worker_serves_no_edited_file() {
    let home = Arc::new(Home::new());
    let server = start(&home, &["m"]).await;
    let version = server.status().await.model("m").version.clone();
    let before = embed(&server, "m").await.json()["data"].clone();
    let (file, from, to) = EDITS[0];
    edit(&Disk::new(&home).version(&version).join(file), from, to);
    let worker = server.worker_pids().await[0];
    kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    let answer = embed(&server, "m").await;
    assert_ne!(answer.status, 200, "{}", answer.text());
    let refused = format!("{file}: the kept version is damaged");
    assert!(server.stderr().contains(&refused), "{}", server.stderr());
    let committed = server.update("m", Some(&model("tiny/a"))).await.unwrap();
    assert_eq!((committed.version, committed.generation), (version, 2));
    assert_eq!(embed(&server, "m").await.json()["data"], before);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_the_place_of_records_stops_only_its_model() {
    let home = Arc::new(Home::new());
    start(&home, &["org/Mod", "n"]).await.stop().await;
    for name in ["org%2FMod", "org%2Fmod"] {
        let records = home.state().join("generations").join(name);
        let _ = fs::remove_dir_all(&records);
        fs::write(&records, "").unwrap();
        let server = start(&home, &["org/Mod", "n"]).await;
        assert_eq!(embed(&server, "n").await.status, 200, "{name}");
        let shown = String::from_utf8(server.cli(&["status"]).await.stdout).unwrap();
        let path = records.display().to_string();
        assert!(shown.contains("org/Mod: not served: ") && shown.contains(&path), "{shown}");
        assert!(server.update("org/Mod", None).await.is_err(), "{name}");
        server.stop().await;
        let (code, shown) = check(&home).await;
        assert!(code == 1 && shown.contains(&path), "{shown}");
        fs::remove_file(&records).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn something_else_in_the_place_of_a_version_is_staged_anew() {
    let home = Arc::new(Home::new());
    let server = start(&home, &["m"]).await;
    let version = server.status().await.model("m").version.clone();
    server.stop().await;
    let path = Disk::new(&home).version(&version);
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir_all(&path).unwrap();
    fs::write(&path, "").unwrap();
    let server = start(&home, &["m"]).await;
    let answer = embed(&server, "m").await;
    assert_eq!((answer.status, answer.generation()), (200, Some(2)), "{}", answer.text());
    assert_eq!(answer.version(), Some(&*version));
    server.stop().await;
    assert!(path.join("MANIFEST").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_and_an_impossible_number_are_damaged_records() {
    let home = Arc::new(Home::new());
    start(&home, &["m"]).await.stop().await;
    let records = home.state().join("generations/m");
    mkfifo(&records.join("2"), Mode::S_IRWXU).unwrap();
    let last = u64::MAX;
    fs::copy(records.join("1"), records.join(last.to_string())).unwrap();
    let server = start(&home, &["m"]).await;
    assert_eq!(embed(&server, "m").await.generation(), Some(1));
    assert_eq!(damaged_records(&server, "m").await, "2");
    let committed = server.update("m", Some(&model("tiny/b"))).await.unwrap();
    assert_eq!(committed.generation, 3);
    server.stop().await;
    let (code, shown) = check(&home).await;
    for part in ["generation 2 is damaged", &format!("generation {last} is damaged")] {
        assert!(code == 1 && shown.contains(part), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_among_compiled_forms_delays_no_start() {
    let home = Arc::new(Home::new());
    let server = start(&home, &["m"]).await;
    let version = server.status().await.model("m").version.clone();
    server.stop().await;
    let form = Disk::new(&home).compiled_form(&version);
    for path in [form.join("MANIFEST"), form.join("costs"), form.join("../probes")] {
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::S_IRWXU).unwrap();
    }
    let started = start(&home, &["m"]);
    let server = tokio::time::timeout(Duration::from_secs(60), started).await.expect("no wait");
    assert_eq!(embed(&server, "m").await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_renamed_in_case_and_back_keeps_its_numbers() {
    let home = Arc::new(Home::new());
    let mut last = 1;
    for (name, content) in [("Foo", "tiny/b"), ("foo", "tiny/a"), ("Foo", "tiny/b")] {
        let server = start(&home, &[name]).await;
        assert_eq!(embed(&server, name).await.generation(), Some(last), "{name}");
        last = server.update(name, Some(&model(content))).await.unwrap().generation;
        let log = server.stderr();
        assert!(!log.contains("not configured"), "{log}");
        server.stop().await;
    }
    assert_eq!(last, 4);
    let folders = fs::read_dir(home.state().join("generations")).unwrap().count();
    assert_eq!(folders, 1, "the records have one place");
}
