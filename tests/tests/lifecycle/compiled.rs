//! Compiled forms: weights shared by all workers. They are derived, so damage is repaired or the
//! plain model is used.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use e2e::{
    corpus::{Corpus, TOLERANCE, distance},
    disk::Disk,
    home::Home,
    processes::{self, Signal},
    server::Server,
};

use crate::{embed, served, tiny};

async fn start(home: &Arc<Home>) -> Server {
    Server::builder().home(home).model("m", &tiny("a")).start().await
}

/// Returns whether all workers use the compiled form, and asserts that they agree.
async fn compiled(server: &Server) -> bool {
    let workers = server.settled().await.workers;
    let compiled: Vec<bool> = workers.iter().map(|worker| worker.loads["m"].compiled).collect();
    assert!(compiled.iter().all(|&one| one == compiled[0]), "{compiled:?}");
    compiled[0]
}

async fn assert_serves(server: &Server, content: &str) {
    let corpus = Corpus::tiny();
    for (text, expected) in corpus.texts.iter().zip(&corpus.contents[content]) {
        let embedding = embed(server, text).await;
        assert!(distance(expected, &embedding) < TOLERANCE, "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_map_weights_from_the_same_file() {
    let home = Arc::new(Home::new());
    let server = start(&home).await;
    for content in ["a", "b"] {
        if content == "b" {
            server.update("m", Some(&tiny("b"))).await.unwrap();
        }
        assert!(compiled(&server).await);
        let version = served(&server, "m").await.1;
        let weights = Disk::new(&home).compiled_form(&version).join("weights.bin");
        for pid in server.worker_pids().await {
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
            assert!(maps.contains(weights.to_str().unwrap()), "{maps}");
        }
        assert_serves(&server, content).await;
    }
    for worker in server.status().await.workers {
        assert!(worker.memory_bytes.is_some_and(|bytes| bytes > 1 << 20), "{worker:?}");
    }
    server.stop().await;
}

/// Damages the directory of a compiled form.
type Damage = fn(PathBuf);

/// Flips bytes throughout a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a file");
    for byte in bytes.iter_mut().step_by(97) {
        *byte ^= 0x55;
    }
    fs::write(path, bytes).expect("the file can be written");
}

fn cut(path: &Path) {
    let bytes = fs::read(path).expect("a file");
    fs::write(path, &bytes[..bytes.len() / 2]).expect("the file can be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_compiled_form_is_rebuilt_at_the_next_start() {
    let home = Arc::new(Home::new());
    let disk = Disk::new(&home);
    start(&home).await.stop().await;
    let version = disk.versions().into_iter().next().unwrap();
    let contents = |form: &Path| ["model.onnx", "weights.bin"].map(|name| form.join(name));
    let sound = contents(&disk.compiled_form(&version)).map(|path| fs::read(path).unwrap());

    let damages: [(&str, Damage); 7] = [
        ("flipped weights", |form| flip(&form.join("weights.bin"))),
        ("cut weights", |form| cut(&form.join("weights.bin"))),
        ("no weights", |form| fs::remove_file(form.join("weights.bin")).unwrap()),
        ("flipped graph", |form| flip(&form.join("model.onnx"))),
        ("no manifest", |form| fs::remove_file(form.join("MANIFEST")).unwrap()),
        ("cut probes", |form| cut(&form.with_file_name("probes"))),
        ("nothing", |form| fs::remove_dir_all(form.parent().unwrap()).unwrap()),
    ];
    for (name, damage) in damages {
        damage(disk.compiled_form(&version));
        let server = start(&home).await;
        assert!(compiled(&server).await, "{name}");
        assert_eq!(served(&server, "m").await, (1, version.clone()), "{name}");
        assert_serves(&server, "a").await;
        server.stop().await;
        let made = contents(&disk.compiled_form(&version)).map(|path| fs::read(path).unwrap());
        assert!(made == sound, "{name}: the rebuilt form equals the original");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_compiled_form_the_plain_model_is_served() {
    let home = Arc::new(Home::new());
    start(&home).await.stop().await;
    let path = home.state().join("compiled");
    fs::remove_dir_all(&path).unwrap();
    fs::write(&path, "not a directory").unwrap();

    let server = start(&home).await;
    assert!(!compiled(&server).await);
    assert_serves(&server, "a").await;
    let text = String::from_utf8(server.cli(&["status"]).await.stdout).unwrap();
    assert!(text.contains("not compiled"), "{text}");
    let from = tiny("b");
    let output = server.cli(&["update", "m", "--from", from.to_str().unwrap()]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("not compiled"), "{text}");
    assert!(!compiled(&server).await);
    assert_serves(&server, "b").await;
    server.stop().await;

    fs::remove_file(&path).unwrap();
    let server = start(&home).await;
    assert!(compiled(&server).await, "the compiled form is built once possible");
    assert_serves(&server, "b").await;
    let text = String::from_utf8(server.cli(&["status"]).await.stdout).unwrap();
    assert!(!text.contains("not compiled"), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_forms_may_be_removed_at_any_time() {
    let home = Arc::new(Home::new());
    let server = start(&home).await;
    server.update("m", Some(&tiny("b"))).await.unwrap();
    fs::remove_dir_all(home.state().join("compiled")).unwrap();
    assert_serves(&server, "b").await;
    server.rollback("m", None).await.unwrap();
    assert_serves(&server, "a").await;
    for pid in server.worker_pids().await {
        processes::signal(pid, Signal::SIGKILL);
    }
    server.restarted(2).await;
    assert!(!compiled(&server).await, "no compiled form exists");
    assert_serves(&server, "a").await;
    server.stop().await;

    let server = start(&home).await;
    assert!(compiled(&server).await, "a start rebuilds a missing form");
    assert_serves(&server, "a").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_version_is_fetched_again_instead_of_served() {
    let home = Arc::new(Home::new());
    let disk = Disk::new(&home);
    start(&home).await.stop().await;
    let version = disk.versions().into_iter().next().unwrap();
    let file = disk.version(&version).join("model.onnx");
    fs::remove_file(&file).unwrap();
    fs::copy(tiny("b").join("model.onnx"), &file).unwrap();
    fs::remove_dir_all(home.state().join("compiled")).unwrap();

    let server = start(&home).await;
    assert_serves(&server, "a").await;
    assert_eq!(served(&server, "m").await, (2, version.clone()));
    let log = server.stderr();
    let directory = disk.version(&version).display().to_string();
    assert!(log.contains(&directory) && log.contains("model.onnx was changed"), "{log}");
    server.stop().await;
    let original = fs::read(tiny("a").join("model.onnx")).unwrap();
    assert!(fs::read(file).unwrap() == original);
    assert_eq!(disk.versions().len(), 1, "the damaged files are removed");
}
