//! Updates that are interrupted, cancelled or superseded, and commands in deleted directories.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use e2e::{
    control::Control,
    eventually,
    fixtures::{self, model},
    home::Home,
    processes::{self, Process, Signal, command_line},
    server::Server,
    tracer::Tracer,
};
use serde_json::Value;

use crate::{CONFIGURATION, stderr};

const REFUSED: Option<i32> = Some(1);
const SUPERSEDED: Option<i32> = Some(3);
const INTERRUPTED: Option<i32> = Some(130);
const SOON: Duration = Duration::from_secs(30);

/// Starts `onnxd update` from a directory, without waiting.
fn start_update(server: &Server, from: &Path) -> Child {
    start(server, &["update", "m", "--from", from.to_str().unwrap()])
}

/// Starts a command, without waiting.
fn start(server: &Server, arguments: &[&str]) -> Child {
    let mut command = Command::new(fixtures::onnxd());
    command.args(arguments).arg("--admin-socket");
    command.arg(server.home().admin_socket()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits for a command without blocking the test.
async fn ended(child: Child) -> Output {
    tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap()
}

/// Waits for a checker and stops it, so that its check never ends.
async fn stopped_checker(home: &Home) -> Process {
    let found = || {
        let all = processes::mentioning(&home.state());
        all.into_iter().find(|process| command_line(process.pid).contains("worker check "))
    };
    let checker = eventually("a checker", SOON, async || found()).await;
    checker.signal(Signal::SIGSTOP);
    checker
}

async fn gone(process: Process) {
    eventually("the end of the checker", SOON, async || (!process.runs()).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_update_goes_on_until_it_is_cancelled() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    for (signal, cancel) in [
        (Signal::SIGINT, &["update", "--cancel", "m"][..]),
        (Signal::SIGTERM, &["update", "--cancel"]),
    ] {
        let update = start_update(&server, &model("tiny/slow"));
        let pid = i32::try_from(update.id()).unwrap();
        let checker = stopped_checker(server.home()).await;
        processes::signal(pid, signal);
        let output = ended(update).await;
        assert_eq!(output.status.code(), INTERRUPTED, "{output:?}");
        let text = stderr(&output);
        assert!(text.contains("the update of m goes on"), "{text}");
        assert!(text.contains("cancel it with `onnxd update --cancel m`"), "{text}");
        assert!(checker.runs());
        let output = server.cli(cancel).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, "m: 1 update cancelled, generation 1 keeps serving\n");
        gone(checker).await;
        let output = server.cli(cancel).await;
        assert_eq!(output.status.code(), REFUSED, "{output:?}");
        assert!(stderr(&output).contains("no update is running or waiting"), "{output:?}");
    }
    // Nothing is left that a later update would wait for.
    let updated = server.update("m", Some(&model("tiny/b"))).await.unwrap();
    assert_eq!(updated.generation, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_during_the_commit_names_the_generation() {
    let server = Server::builder().workers(1).model("m", &model("tiny/a")).start().await;
    server.update("m", Some(&model("tiny/b"))).await.unwrap();
    // The record of the next generation is written slowly.
    let Some(tracer) = Tracer::attach(&server, "fsync", "delay_enter=2000000").await else {
        eprintln!("SKIPPED: strace cannot attach");
        return server.stop().await;
    };
    let control = Control::new(&server);
    let mut rollback = control.rollback("m").await;
    rollback.step("loaded").await;
    let newer = start_update(&server, &model("tiny/b"));
    for cancel in [&["update", "--cancel", "m"][..], &["update", "--cancel"]] {
        let output = eventually("the commit", SOON, async || {
            let output = server.cli(cancel).await;
            // The first one cancels the update that waits.
            (output.status.code() != Some(0)).then_some(output)
        })
        .await;
        assert_eq!(output.status.code(), REFUSED, "{output:?}");
        let message = "too late to cancel: generation 3 is being committed";
        assert!(stderr(&output).contains(message), "{output:?}");
    }
    tracer.detach();
    assert_eq!(rollback.end().await.1.unwrap().generation, 3);
    let output = ended(newer).await;
    assert!(stderr(&output).contains("cancelled by"), "{output:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_during_an_unload_says_that_no_update_runs() {
    let server =
        Server::builder().model("m", &model("tiny/a")).tolerates_stopped_workers().start().await;
    let workers = server.worker_pids().await;
    workers.iter().for_each(|pid| processes::signal(*pid, Signal::SIGSTOP));
    let unload = start(&server, &["unload", "m"]);
    eventually("the unload", SOON, async || {
        let output = server.cli(&["update", "--cancel", "m"]).await;
        assert_eq!(output.status.code(), REFUSED, "{output:?}");
        let message = "no update is running or waiting; the model is being unloaded";
        stderr(&output).contains(message).then_some(())
    })
    .await;
    workers.iter().for_each(|pid| processes::signal(*pid, Signal::SIGCONT));
    let output = ended(unload).await;
    assert!(output.stdout.starts_with(b"m: generation 1 unloaded"), "{output:?}");
    let again = server.cli(&["unload", "m"]).await;
    let text = String::from_utf8(again.stdout).unwrap();
    assert!(text.starts_with("m: no generation was serving"), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_before_the_server_answers_claims_nothing() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    // It accepts connections, but reads none.
    server.signal(Signal::SIGSTOP);
    let update = start_update(&server, &model("tiny/b"));
    let pid = i32::try_from(update.id()).unwrap();
    let sent = || {
        let mut files = processes::open_files(pid).into_iter();
        files.any(|path| path.to_string_lossy().starts_with("socket:")).then_some(())
    };
    eventually("a connection", SOON, async || sent()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    processes::signal(pid, Signal::SIGINT);
    let output = ended(update).await;
    server.signal(Signal::SIGCONT);
    assert_eq!(output.status.code(), INTERRUPTED, "{output:?}");
    let text = stderr(&output);
    assert!(text.contains("before the server answered: the update of m may go on"), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_and_superseded_callers_can_tell() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let running = start_update(&server, &model("tiny/slow"));
    let checker = stopped_checker(server.home()).await;
    let control = Control::new(&server);
    let waiting = start_update(&server, &model("tiny/b"));
    let pid = i32::try_from(waiting.id()).unwrap();
    let has_socket = || {
        let mut files = processes::open_files(pid).into_iter();
        files.any(|path| path.to_string_lossy().starts_with("socket:")).then_some(())
    };
    eventually("a connection", SOON, async || has_socket()).await;
    // The connection exists, but the update queue may not have received the call yet.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let newer = control.update("m", &model("tiny/b"), "ahead").await;
    assert_eq!(newer.status(), 200, "accepted while another one runs");
    checker.signal(Signal::SIGKILL);
    assert_eq!(ended(running).await.status.code(), REFUSED);
    assert_eq!(newer.end().await.1.unwrap().generation, 2);
    let output = ended(waiting).await;
    assert_eq!(output.status.code(), SUPERSEDED, "{output:?}");
    assert!(stderr(&output).contains("which is generation 2"), "{output:?}");

    let running = start_update(&server, &model("tiny/slow"));
    stopped_checker(server.home()).await;
    let cancelled = server.cli(&["update", "--cancel", "m", "--json"]).await;
    let cancelled: Value = serde_json::from_slice(&cancelled.stdout).unwrap();
    assert_eq!(cancelled["updates"], 1, "{cancelled}");
    let output = ended(running).await;
    assert_eq!(output.status.code(), REFUSED, "{output:?}");
    assert!(stderr(&output).contains("cancelled by `onnxd update --cancel`"), "{output:?}");
    server.stop().await;
}

#[test]
fn relative_paths_in_a_deleted_directory_are_refused() {
    let home = Home::new();
    let gone = home.root().join("gone");
    fs::create_dir(&gone).unwrap();
    let run = |arguments: &[&str]| {
        let mut shell = Command::new("sh");
        shell.current_dir(&gone).args(["-c", "rmdir \"$PWD\"; exec \"$0\" \"$@\""]);
        let output = shell.arg(fixtures::onnxd()).args(arguments).output().unwrap();
        fs::create_dir(&gone).unwrap();
        output
    };
    let (library, a) = (fixtures::onnxruntime(), model("tiny/a"));
    let (socket, state) = (home.admin_socket(), home.state());
    let [library, a, socket, state] =
        [&library, &a, &socket, &state].map(|path| path.to_str().unwrap());
    let serve = ["serve", "--check-config", "--onnxruntime", library];
    for (arguments, code, flag) in [
        (
            &["--admin-socket", socket, "--state-dir", state, "--model", "m=rel"][..],
            CONFIGURATION,
            "--model m=rel",
        ),
        (
            &["--admin-socket", socket, "--model", a, "--state-dir", "rel"],
            CONFIGURATION,
            "--state-dir",
        ),
        (
            &["--state-dir", state, "--model", a, "--admin-socket", "rel"],
            CONFIGURATION,
            "--admin-socket",
        ),
    ] {
        let output = run(&[&serve, arguments].concat());
        assert_eq!(output.status.code(), code, "{output:?}");
        let text = stderr(&output);
        assert!(text.contains(flag) && text.contains("\"rel\" is relative"), "{text}");
        assert!(text.contains("pass an absolute path"), "{text}");
    }
    let output = run(&["fetch", a, "rel"]);
    assert_eq!(output.status.code(), CONFIGURATION, "{output:?}");
    assert!(stderr(&output).contains("DIR: \"rel\" is relative"), "{output:?}");
    let output = run(&["update", "m", "--from", "rel", "--admin-socket", socket]);
    assert_eq!(output.status.code(), REFUSED, "{output:?}");
    assert!(stderr(&output).contains("--from: \"rel\" is relative"), "{output:?}");
    let absolute = [&serve[..], &["--admin-socket", socket, "--state-dir", state, "--model", a]];
    let output = run(&absolute.concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
