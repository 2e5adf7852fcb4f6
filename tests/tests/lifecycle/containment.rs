//! A version contains only copies of files from its directory. No other file has any influence on
//! it, whatever a model or a link refers to.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use e2e::{
    corpus::{Corpus, TOLERANCE, distance},
    disk::Disk,
    fixtures::replace_model,
    home::Home,
    load::Load,
    server::Server,
};

use crate::{embed, served, tiny};

/// The file name in the model's external data.
const LOCATION: &str = "model.onnx_data";

/// Copies the model with external data and makes it refer to `location`.
fn with_location(home: &Home, name: &str, location: &str) -> PathBuf {
    let directory = home.models().join(name);
    replace_model(&tiny("external"), &directory);
    let model = fs::read(directory.join("model.onnx")).expect("a file");
    // The length must not change, as it is part of the encoding.
    assert_eq!(location.len(), LOCATION.len(), "{location}");
    let patched = replace(&model, LOCATION.as_bytes(), location.as_bytes());
    assert_ne!(patched, model);
    fs::write(directory.join("model.onnx"), patched).expect("the model can be written");
    directory
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for index in 0..=bytes.len() - from.len() {
        if bytes[index..].starts_with(from) {
            bytes[index..index + to.len()].copy_from_slice(to);
        }
    }
    bytes
}

/// A file in `/tmp`, removed on drop.
struct OutsideFile(PathBuf);

impl Drop for OutsideFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn external_data_outside_of_the_version_is_refused() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let home = server.home();
    let mut load = Load::start(&server, "m", Corpus::tiny(), "a", 2).await;
    // The data is valid; only the location is wrong. Staged files are two levels below the state
    // directory, like versions.
    let data = tiny("external").join(LOCATION);
    fs::copy(&data, home.root().join("secret")).unwrap();
    let absolute = OutsideFile(format!("/tmp/e2e-{:06}", std::process::id() % 1_000_000).into());
    fs::copy(&data, &absolute.0).unwrap();
    for (name, location) in [
        ("relative", "../../../secret"),
        ("absolute", absolute.0.to_str().unwrap()),
        ("missing", "model.onnx_none"),
        ("directory", "././././././../"),
    ] {
        let from = with_location(home, name, location);
        let refusal = load.update(&server, &from, "none").await.unwrap_err();
        assert!(["contract", "load"].contains(&refusal.kind.as_str()), "{name}: {refusal:?}");
        load.more(4).await;
    }
    assert_eq!(served(&server, "m").await.0, 1);
    let sound = with_location(home, "sound", "././././mo.data");
    fs::rename(sound.join(LOCATION), sound.join("mo.data")).unwrap();
    load.update(&server, &sound, "a").await.unwrap();
    load.more(4).await;
    assert_eq!(load.finish().await.generations, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_links_and_special_files_are_refused_by_name() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    for name in [LOCATION, "tokenizer.json", "1_Pooling"] {
        let from = server.home().models().join("linked");
        replace_model(&tiny("external"), &from);
        let kept = server.home().models().join("kept");
        let _ = fs::remove_dir_all(&kept).or_else(|_| fs::remove_file(&kept));
        fs::rename(from.join(name), &kept).unwrap();
        symlink("../kept", from.join(name)).unwrap();
        let refusal = server.update("m", Some(&from)).await.unwrap_err();
        assert_eq!(refusal.kind, "contract", "{name}: {refusal:?}");
        assert!(refusal.message.contains(name), "{name}: {refusal:?}");
        assert!(refusal.message.contains("link"), "{name}: {refusal:?}");
    }
    let fifo = server.home().models().join("fifo");
    replace_model(&tiny("b"), &fifo);
    fs::remove_file(fifo.join("model.onnx")).unwrap();
    let made = Command::new("mkfifo").arg(fifo.join("model.onnx")).status();
    assert!(made.is_ok_and(|status| status.success()));
    let refusal = server.update("m", Some(&fifo)).await.unwrap_err();
    assert_eq!(refusal.kind, "contract", "{refusal:?}");
    // The directory itself may be a link, which is followed once.
    let current = server.home().models().join("current");
    symlink(tiny("b"), &current).unwrap();
    server.update("m", Some(&current)).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_linked_files_are_copied() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let origin = server.home().models().join("origin");
    let from = server.home().models().join("hard-linked");
    replace_model(&tiny("external"), &origin);
    replace_model(&origin, &from);
    for name in ["model.onnx", LOCATION, "tokenizer.json"] {
        fs::remove_file(from.join(name)).unwrap();
        fs::hard_link(origin.join(name), from.join(name)).unwrap();
    }
    let committed = server.update("m", Some(&from)).await.unwrap();
    let version = Disk::new(server.home()).version(&committed.version);
    for name in ["model.onnx", LOCATION, "tokenizer.json"] {
        let inode = |path: &Path| fs::metadata(path.join(name)).unwrap().ino();
        assert_ne!(inode(&version), inode(&origin), "{name}");
        assert_eq!(fs::metadata(version.join(name)).unwrap().nlink(), 1, "{name}");
        fs::write(origin.join(name), "changed in place").unwrap();
    }
    // A restarted worker reads the version again.
    for pid in server.worker_pids().await {
        e2e::processes::signal(pid, e2e::processes::Signal::SIGKILL);
    }
    server.restarted(2).await;
    let corpus = Corpus::tiny();
    let embedding = embed(&server, &corpus.texts[2]).await;
    assert!(distance(&corpus.contents["a"][2], &embedding) < TOLERANCE);
    server.stop().await;
}

/// Minimum number of times the link is repointed while updates follow it.
const REPOINTS_MIN: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_moving_link_never_mixes_two_directories() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let models = server.home().models();
    let mut known = BTreeSet::from([served(&server, "m").await.1]);
    known.insert(server.update("m", Some(&tiny("b"))).await.unwrap().version);
    let (current, next) = (models.join("current"), models.join("next"));
    let moves = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    symlink(tiny("a"), &current).unwrap();
    let moving = {
        let (moves, stop, current) = (Arc::clone(&moves), Arc::clone(&stop), current.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let content = ["a", "b"][moves.fetch_add(1, Ordering::Relaxed) % 2];
                symlink(tiny(content), &next).unwrap();
                fs::rename(&next, &current).unwrap();
                thread::sleep(Duration::from_micros(100));
            }
        })
    };
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.insert(server.update("m", Some(&current)).await.unwrap().version);
    }
    stop.store(true, Ordering::Relaxed);
    moving.join().unwrap();
    assert!(moves.load(Ordering::Relaxed) > REPOINTS_MIN, "{moves:?}");
    assert!(seen.is_subset(&known), "a version mixes both: {seen:?}, {known:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_while_it_is_copied_is_refused() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let from = server.home().models().join("growing");
    replace_model(&tiny("b"), &from);
    let stop = Arc::new(AtomicBool::new(false));
    let growing = {
        let (stop, path) = (Arc::clone(&stop), from.join("model.onnx"));
        thread::spawn(move || {
            let mut file = fs::File::options().append(true).open(path).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(&[0xff; 4096]).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        })
    };
    // By now, the file is no longer a valid model.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let timeout = Duration::from_secs(60);
    let update = tokio::time::timeout(timeout, server.update("m", Some(&from))).await;
    stop.store(true, Ordering::Relaxed);
    growing.join().unwrap();
    let refusal = update.expect("the update returns").unwrap_err();
    assert_eq!(refusal.kind, "load", "{refusal:?}");
    assert_eq!(served(&server, "m").await.0, 1);
    server.stop().await;
}
