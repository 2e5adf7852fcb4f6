//! Runs every command in README.md and the book against the real binaries, and compares the
//! documented output with the actual output. A document is one session: its commands run in order,
//! and its servers keep running.
//!
//! - [`blocks`] extracts the commands, [`session`] runs them, [`shape`] compares.

mod blocks;
mod session;
mod shape;

use std::{collections::BTreeSet, fs, time::Duration};

use e2e::{
    fixtures::{files_below, workspace},
    soon,
};

use self::{
    blocks::Command,
    session::{CommandOutput, Session},
};

/// Short enough for a newcomer to read in two minutes.
const README_LINES_MAX: usize = 150;
/// A server's log lines may arrive after its first response.
const LOG_MAX: Duration = Duration::from_secs(10);

/// A documented command that the test does not run as written.
struct SkippedCommand {
    command: &'static str,
    /// Why not, and which test covers it instead.
    reason: &'static str,
    /// The command that the session runs instead, if any.
    instead: Option<&'static str>,
}

const SKIPPED_COMMANDS: [SkippedCommand; 3] = [
    SkippedCommand {
        command: "cargo xtask serve",
        reason: "builds and downloads; `.ci/run` runs it, and the tests of `xtask/src/serve.rs` compare its output",
        instead: Some(
            "target/quick/onnxd serve --model minilm=target/onnxd/models/minilm \
             --listen 127.0.0.1:8080 --admin-socket target/onnxd/admin.sock \
             --state-dir target/onnxd/state \
             --onnxruntime target/onnxd/onnxruntime/libonnxruntime.so.1.31.1 \
             --worker-binary target/quick/onnxd-worker",
        ),
    },
    SkippedCommand {
        command: "cargo build --release -p onnxd -p onnxd-worker -p onnxd-fetch -p onnxd-index -p onnxd-postgres",
        reason: "builds for minutes; `cargo xtask soak` does so every night",
        instead: None,
    },
    SkippedCommand {
        command: "systemctl kill -s USR2 --kill-whom=main onnxd",
        reason: "needs systemd and root; the tests in `tests/tests/upgrade/` send the signal",
        instead: None,
    },
];

/// Documents with commands, and the server that they assume is running.
const DOCUMENTS: [(&str, Option<&str>); 8] = [
    ("README.md", None),
    ("docs/getting-started.md", None),
    ("docs/compatibility.md", Some(MINILM)),
    ("docs/models.md", Some(MINILM)),
    ("docs/operating.md", Some(MINILM)),
    ("docs/search.md", Some(MINILM)),
    ("docs/sources.md", Some(MINILM)),
    ("docs/updating.md", Some(MINILM)),
];
const MINILM: &str = "onnxd serve --model minilm=/srv/models/minilm";

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_readme_print_what_it_shows() {
    follow("README.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_getting_started_print_what_it_shows() {
    follow("docs/getting-started.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_clients_chapter_print_what_it_shows() {
    follow("docs/compatibility.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_models_chapter_print_what_it_shows() {
    follow("docs/models.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_operating_chapter_print_what_it_shows() {
    follow("docs/operating.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_search_chapter_print_what_it_shows() {
    follow("docs/search.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_sources_chapter_print_what_it_shows() {
    follow("docs/sources.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_updating_chapter_print_what_it_shows() {
    follow("docs/updating.md").await;
}

#[test]
fn every_document_with_commands_is_followed() {
    let mut found = BTreeSet::new();
    let mut commands = BTreeSet::new();
    let root = fs::read_dir(workspace()).expect("the root can be read").flatten();
    let at_root = root.map(|entry| entry.path());
    let at_root = at_root.filter(|path| path.extension().is_some_and(|found| found == "md"));
    let files = at_root.chain(files_below(&workspace().join("docs"), "md"));
    for file in files {
        let text = fs::read_to_string(&file).expect("a document can be read");
        let path = file.strip_prefix(workspace()).expect("below the root").display().to_string();
        let shown = blocks::commands(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
        commands.extend(shown.iter().map(|command| command.text.to_owned()));
        if !shown.is_empty() {
            found.insert(path);
        }
    }
    let followed: BTreeSet<String> = DOCUMENTS.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, followed);
    for SkippedCommand { command, reason, .. } in SKIPPED_COMMANDS {
        assert!(commands.contains(command), "no document shows `{command}`, which {reason}");
    }
}

#[test]
fn the_readme_is_short() {
    let document = fs::read_to_string(workspace().join("README.md")).expect("it can be read");
    let lines = document.lines().count();
    assert!(lines <= README_LINES_MAX, "{lines} lines, at most {README_LINES_MAX} are allowed");
}

/// Runs all commands of a document in order.
async fn follow(path: &str) {
    let (_, server) = DOCUMENTS.iter().find(|(known, _)| *known == path).expect("it is listed");
    let document = fs::read_to_string(workspace().join(path)).expect("a document can be read");
    let commands = blocks::commands(&document).unwrap_or_else(|error| panic!("{path}: {error}"));
    // Documents that assume a running server also assume an installation.
    let mut session = Session::new(server.is_some());
    if let Some(server) = server {
        session.serve(server).await;
    }
    let mut wrong = Vec::new();
    for command in commands {
        if let Err(error) = run(&mut session, &command).await {
            wrong.push(format!("{path}:{}: {}\n{error}", command.line, command.text));
        }
    }
    session.stop().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Runs a command and compares its output and its exit code.
async fn run(session: &mut Session, command: &Command<'_>) -> Result<(), String> {
    if let Some(skipped) = SKIPPED_COMMANDS.iter().find(|known| known.command == command.text) {
        if let Some(instead) = skipped.instead {
            session.serve(instead).await;
        }
        return Ok(());
    }
    if is_server(command.text) {
        session.serve(command.text).await;
        let mut compared = Ok(());
        // The log may continue after the documented lines.
        let mut longer = Command { output: command.output.clone(), ..*command };
        longer.output.push("…");
        soon(LOG_MAX, || {
            let log = session.log();
            compared =
                compare(command, &log).or_else(|error| compare(&longer, &log).or(Err(error)));
            compared.is_ok()
        });
        return compared;
    }
    let CommandOutput { output, code } = session.run(command.text).await;
    compare(command, &output)?;
    let expected = i32::from(is_refused(command));
    match code {
        Some(code) if code == expected => Ok(()),
        _ => Err(format!("exit code {code:?} instead of {expected}")),
    }
}

/// Returns whether the command runs until it is stopped.
fn is_server(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let is_onnxd = words.next().is_some_and(|word| word.rsplit('/').next() == Some("onnxd"));
    is_onnxd && words.next() == Some("serve") && !words.any(|word| word == "--check-config")
}

/// Returns whether the output ends with an error of onnxd.
fn is_refused(command: &Command<'_>) -> bool {
    let mut lines = command.output.iter().rev().filter(|line| !line.is_empty());
    lines.next().is_some_and(|line| line.starts_with("onnxd: "))
}

fn compare(command: &Command<'_>, output: &str) -> Result<(), String> {
    let real: Vec<&str> = output.lines().collect();
    shape::compare(&command.output, &real)
        .map_err(|error| format!("{error}\nreal output:\n{output}"))
}

#[test]
fn servers_and_refusals_are_recognized() {
    assert!(is_server("onnxd serve --model a") && is_server("target/quick/onnxd serve"));
    assert!(!is_server("onnxd serve --check-config") && !is_server("onnxd status"));
    assert!(!is_server("cargo xtask serve"));
    let command = |output| Command { line: 1, text: "", output };
    assert!(is_refused(&command(vec!["a", "onnxd: refused", ""])));
    assert!(!is_refused(&command(vec!["onnxd: refused", "a"])) && !is_refused(&command(vec![])));
}
