//! Successors that cannot serve: the predecessor keeps serving and logs the reason.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use e2e::{
    corpus::Corpus, disk::Disk, fixtures, fixtures::model, load::Load, processes::Signal,
    server::Server,
};

use crate::Succession;

fn install(path: &Path, content: &[u8], mode: u32) {
    let temporary = path.with_extension("new");
    fs::write(&temporary, content).expect("the file can be written");
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).expect("the mode can be set");
    // Like package managers, replace the file rather than overwrite the running one.
    fs::rename(&temporary, path).expect("the file can be renamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_successor_leaves_the_predecessor_serving() {
    let builder = Server::builder()
        .model("m", &model("tiny/a"))
        .argument("--succession-timeout")
        .argument("2");
    let onnxd = builder.directories().root().join("onnxd");
    let good = fs::read(fixtures::onnxd()).expect("the executable");
    install(&onnxd, &good, 0o755);
    let mut line = Succession::start(builder.executable(&onnxd)).await;
    let mut load = Load::start(&line.server, "m", Corpus::tiny(), "a", 4).await;
    let pid = line.pid();
    let mut contents = ["b", "a"].into_iter().cycle();
    let not_started = format!("cannot start the successor: {}: ", onnxd.display());
    for (content, mode, reason) in [
        (&b"#!/bin/sh\nexit 78\n"[..], 0o755, "exit status: 78"),
        (b"#!/bin/sh\nexec sleep 1000\n", 0o755, "the successor was not ready within 2 s"),
        (b"not a program", 0o644, &not_started),
    ] {
        install(&onnxd, content, mode);
        let from = line.server.stderr().len();
        line.signal(Signal::SIGUSR2);
        line.wait_for_log("succession failed", from).await;
        let log = line.server.stderr();
        assert!(log[from..].contains(reason), "{reason}: {}", &log[from..]);
        assert!(line.server.runs() && line.pid() == pid);
        load.more(20).await;
        let name = contents.next().expect("endless");
        let from = model(&format!("tiny/{name}"));
        load.update(&line.server, &from, name).await.expect("updates are accepted again");
    }
    install(&onnxd, &good, 0o755);
    line.succeed().await;
    load.more(20).await;
    load.finish().await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_never_goes_back_to_an_earlier_generation() {
    let mut line = Succession::start(Server::builder().model("m", &model("tiny/a"))).await;
    let mut load = Load::start(&line.server, "m", Corpus::tiny(), "a", 4).await;
    load.update(&line.server, &model("tiny/b"), "b").await.expect("an update");
    let version = line.server.status().await.model("m").version.clone();
    let tokenizer = Disk::new(&line.home).version(&version).join("tokenizer.json");
    let damaged = [fs::read(&tokenizer).expect("a file"), b" ".to_vec()].concat();
    fs::set_permissions(&tokenizer, fs::Permissions::from_mode(0o644))
        .expect("the mode can be set");
    fs::write(&tokenizer, damaged).expect("the file can be written");
    let (pid, from) = (line.pid(), line.server.stderr().len());
    line.signal(Signal::SIGUSR2);
    line.wait_for_log("succession failed", from).await;
    let log = line.server.stderr();
    let reason = "the version of generation 2 is damaged (tokenizer.json was changed)";
    assert!(log[from..].contains(reason), "{}", &log[from..]);
    assert!(line.server.runs() && line.pid() == pid);
    load.more(20).await;
    // An update stages the version again.
    load.update(&line.server, &model("tiny/b"), "b").await.expect("an update");
    line.succeed().await;
    load.more(20).await;
    load.finish().await;
    line.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigusr2_waits_during_start_and_is_ignored_during_stop() {
    let mut server = Server::builder().model("m", &model("tiny/a")).spawn();
    tokio::time::sleep(Duration::from_millis(40)).await;
    server.signal(Signal::SIGUSR2);
    server.signal(Signal::SIGUSR2);
    server.ready().await.expect("ready");
    let home = std::sync::Arc::clone(server.home());
    let line = Succession { server, home };
    let first = line.server.pid();
    e2e::eventually("a successor", crate::TIMEOUT, async || (line.pid() != first).then_some(()))
        .await;
    let second = line.process();
    second.signal(Signal::SIGTERM);
    while second.runs() {
        second.signal(Signal::SIGUSR2);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut line = line;
    line.assert_no_leftovers().await;
}
