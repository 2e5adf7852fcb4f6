//! Damaged state directories, and `onnxd state`, which inspects, repairs and prunes them.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
};

use e2e::{disk::Disk, fixtures::model, home::Home, launch, server::Server};
use serde_json::Value;

async fn start(home: &Arc<Home>, models: &[&str]) -> Server {
    let mut builder = Server::builder().home(home).workers(1);
    for name in models {
        builder = builder.model(name, &model("tiny/a"));
    }
    builder.start().await
}

/// Runs `onnxd state` on the state directory of this home. Returns its exit code and output.
async fn state(home: &Home, arguments: &[&str]) -> (i32, String) {
    let directory = home.state();
    let mut all = vec!["state"];
    all.extend(arguments);
    all.extend(["--state-dir", directory.to_str().unwrap()]);
    let Output { status, stdout, stderr } = launch::run(home, &all).await;
    let text = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    (status.code().unwrap(), text)
}

async fn generation(server: &Server, name: &str) -> u64 {
    server.status().await.model(name).generation
}

async fn damaged_records(server: &Server, name: &str) -> (Value, String) {
    let status = server.cli(&["status", "--json"]).await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let models = status["models"].as_array().unwrap();
    let found = models.iter().find(|model| model["name"] == name).unwrap();
    let metrics = server.client().await.get("/metrics").await.unwrap().text();
    let series = format!("onnxd_state_damaged_records{{model=\"{name}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
    (found["damaged_records"].clone(), line.unwrap().to_owned())
}

/// Damages the record at a path, which is missing.
type Damage = fn(&Path);

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_harms_no_other_generation_or_model() {
    let mut damages: Vec<(&str, Damage)> = vec![
        ("empty", |path| fs::write(path, "").unwrap()),
        ("cut", |path| fs::write(path, "{\"version\":\"").unwrap()),
        ("another type", |path| fs::write(path, "[]").unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
    ];
    // Root reads every file.
    if !nix::unistd::geteuid().is_root() {
        damages.push(("unreadable", |path| {
            fs::write(path, "{}").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
        }));
    }
    let home = Arc::new(Home::new());
    let server = start(&home, &["m", "n"]).await;
    let (mut whole, mut newest) = (1, 2);
    let committed = server.update("m", Some(&model("tiny/b"))).await.unwrap();
    assert_eq!(committed.generation, newest);
    server.stop().await;
    for (what, damage) in damages {
        let record = home.state().join(format!("generations/m/{newest}"));
        fs::remove_file(&record).unwrap();
        damage(&record);
        let server = start(&home, &["m", "n"]).await;
        assert_eq!(generation(&server, "m").await, whole, "{what}");
        assert_eq!(generation(&server, "n").await, 1, "{what}");
        let (listed, metric) = damaged_records(&server, "m").await;
        assert_eq!((listed, &*metric), (serde_json::json!([newest]), "1"), "{what}");
        assert_eq!(damaged_records(&server, "n").await.1, "0", "{what}");
        let shown = String::from_utf8(server.cli(&["status"]).await.stdout).unwrap();
        assert!(shown.contains("onnxd state repair"), "{what}: {shown}");
        let log = server.stderr();
        assert!(log.contains("damaged") && log.contains("onnxd state repair"), "{what}: {log}");
        let committed = server.update("m", Some(&model("tiny/b"))).await.unwrap();
        assert_eq!(committed.generation, newest + 1, "{what}: no number is used twice");
        server.stop().await;

        let (code, shown) = state(&home, &["check"]).await;
        let line = format!("m: generation {newest} is damaged");
        assert!(code == 1 && shown.contains(&line), "{what}: {shown}");
        let (code, shown) = state(&home, &["repair", "--dry-run"]).await;
        assert!(code == 0 && shown.contains("would set aside"), "{what}: {shown}");
        assert_eq!(state(&home, &["check"]).await.0, 1, "{what}: nothing was changed");
        let (code, shown) = state(&home, &["repair"]).await;
        let aside = format!("damaged/generations/m/{newest}");
        assert!(code == 0 && shown.contains(&aside), "{what}: {shown}");
        assert!(home.state().join(aside).exists(), "{what}");
        let (code, shown) = state(&home, &["check"]).await;
        assert_eq!(code, 0, "{what}: {shown}");
        (whole, newest) = (newest + 1, newest + 1);
        let server = start(&home, &["m", "n"]).await;
        assert_eq!(damaged_records(&server, "m").await.1, "0", "{what}");
        let committed = server.update("m", Some(&model("tiny/b"))).await.unwrap();
        newest += 1;
        assert_eq!(committed.generation, newest, "{what}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_cannot_be_listed_stop_only_their_model() {
    let home = Arc::new(Home::new());
    start(&home, &["m", "n"]).await.stop().await;
    let records = home.state().join("generations/m");
    fs::remove_dir_all(&records).unwrap();
    fs::write(&records, "").unwrap();
    let server = start(&home, &["m", "n"]).await;
    assert_eq!(generation(&server, "n").await, 1);
    let shown = String::from_utf8(server.cli(&["status"]).await.stdout).unwrap();
    assert!(shown.contains("m: not served: ") && shown.contains("onnxd state check"), "{shown}");
    server.stop().await;
    for command in ["check", "repair"] {
        let (code, shown) = state(&home, &[command]).await;
        assert!(code == 1 && shown.contains("m: its records cannot be listed"), "{shown}");
    }
}

/// Returns every path below a directory, with its size and times.
fn listing(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        lines.push(format!("{path:?} {} {:?}", metadata.len(), metadata.modified().unwrap()));
        if metadata.is_dir() {
            lines.extend(listing(&path));
        }
    }
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_beside_a_server_changes_nothing_and_a_repair_is_refused() {
    let home = Arc::new(Home::new());
    let server = start(&home, &["m"]).await;
    let before = listing(&home.state());
    let (code, shown) = state(&home, &["check"]).await;
    let pid = format!("process {}", server.pid());
    assert!(code == 0 && shown.contains(&pid), "{shown}");
    let (code, shown) = state(&home, &["repair", "--dry-run"]).await;
    assert!(code == 0 && shown.contains("nothing to repair"), "{shown}");
    assert_eq!(listing(&home.state()), before);
    for arguments in [&["repair"][..], &["prune", "--keep", "m"]] {
        let (code, shown) = state(&home, arguments).await;
        assert!(code == 78 && shown.contains(&pid) && shown.contains("stop it"), "{shown}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_sets_a_damaged_version_aside() {
    let home = Arc::new(Home::new());
    let server = start(&home, &["m"]).await;
    let damaged = server.update("m", Some(&model("tiny/b"))).await.unwrap().version;
    server.stop().await;
    let file = Disk::new(&home).version(&damaged).join("model.onnx");
    fs::remove_file(&file).unwrap();
    fs::copy(model("tiny/a").join("model.onnx"), &file).unwrap();
    let (code, shown) = state(&home, &["check", "--json"]).await;
    let survey: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, &survey["models"][0]["serves"]), (1, &Value::from(1)), "{shown}");
    let (code, shown) = state(&home, &["repair"]).await;
    let aside = home.state().join("damaged/versions").join(&damaged);
    assert!(code == 0 && shown.contains(aside.to_str().unwrap()), "{shown}");
    assert!(aside.join("model.onnx").exists());
    let server = start(&home, &["m"]).await;
    assert_eq!(generation(&server, "m").await, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_removes_models_that_are_not_configured() {
    let home = Arc::new(Home::new());
    let server = start(&home, &["m", "old"]).await;
    let unused = server.update("old", Some(&model("tiny/b"))).await.unwrap().version;
    server.stop().await;
    let version = Disk::new(&home).version(&unused);

    let server = start(&home, &["m"]).await;
    let log = server.stderr();
    assert!(log.contains("onnxd state prune") && log.contains("models=\"old\""), "{log}");
    let config: PathBuf = home.root().join("onnxd.toml");
    let source = model("tiny/a");
    fs::write(&config, format!("model = ['m={}']\nworkers = 1\n", source.display())).unwrap();
    let prune = ["prune", "--config", config.to_str().unwrap()];
    let (code, planned) = state(&home, &[&prune[..], &["--dry-run"]].concat()).await;
    assert!(code == 0 && planned.contains("would free ") && version.exists(), "{planned}");
    server.stop().await;

    for (arguments, part) in [
        (&["prune"][..], "no model would stay"),
        (&["prune", "--keep", "n"], "it has records of: m, old"),
    ] {
        let (code, shown) = state(&home, arguments).await;
        assert!(code == 78 && shown.contains(part), "{shown}");
    }
    let (code, shown) = state(&home, &prune).await;
    assert!(code == 0 && shown.contains("generations/old"), "{shown}");
    let total =
        |text: &str| text.lines().last().unwrap().rsplit_once(" free").unwrap().1.to_owned();
    assert_eq!(total(&shown.replace("freed", "would free")), total(&planned));
    assert!(!version.exists());
    let (_, shown) = state(&home, &["check", "--json"]).await;
    let survey: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(survey["models"].as_array().unwrap().len(), 1, "{shown}");
    let (code, shown) = state(&home, &[&prune[..], &["--json"]].concat()).await;
    let nothing: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((code, &nothing["bytes"]), (0, &Value::from(0)), "{shown}");
    let server = start(&home, &["m"]).await;
    assert_eq!(generation(&server, "m").await, 1);
    assert!(!server.stderr().contains("onnxd state prune"));
    server.stop().await;
}
