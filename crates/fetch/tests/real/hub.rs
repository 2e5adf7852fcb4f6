//! olah, which serves Git repositories with large files as a hub.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    fetch::{Fetch, model, write},
    servers::{Server, free_port, program},
};

fn git(repository: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(repository).args(["-c", "user.name=test", "-c", "user.email=test@example"]);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("HOME", repository);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn commit(repository: &Path, number: u8) -> String {
    write(repository, &model(number));
    git(repository, &["add", "-A"]);
    git(repository, &["commit", "-q", "-m", "next"]);
    git(repository, &["rev-parse", "HEAD"])
}

/// Starts olah with the repository `org/name`.
fn olah(directory: &Path) -> (Server, PathBuf) {
    let repository = directory.join("mirrors/models/org/name");
    fs::create_dir_all(&repository).unwrap();
    git(&repository, &["init", "-q", "-b", "main"]);
    git(&repository, &["lfs", "install", "--local"]);
    git(&repository, &["lfs", "track", "*.onnx"]);
    let port = free_port();
    let config = directory.join("olah.toml");
    let at = |name: &str| directory.join(name).display().to_string();
    let text = format!(
        "[basic]\nhost = \"127.0.0.1\"\nport = {port}\nrepos-path = \"{}\"\nmirrors-path = [\"{}\"]\n\
         log-path = \"{}\"\n[accessibility]\noffline = true\n",
        at("repos"),
        at("mirrors"),
        at("logs")
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(program("olah-cli"));
    (Server::start(command.arg("--config").arg(config), port, directory), repository)
}

#[test]
#[ignore = "needs servers; run by `cargo xtask test-sources`"]
fn olah_serves_commits() {
    let directory = tempfile::tempdir().unwrap();
    let (server, repository) = olah(directory.path());
    let first = commit(&repository, 1);
    let fetch = Fetch::of("hf://org/name").with("HF_ENDPOINT", server.url(""));
    let said = fetch.download(&model(1));
    assert_eq!(said.id(), format!("hf:{first}"));
    assert!(fetch.resolve(Some(said.id())).is_unchanged());
    let second = commit(&repository, 2);
    assert_eq!(fetch.download(&model(2)).id(), format!("hf:{second}"));
    // The older commit is still complete.
    let older = Fetch::of(format!("hf://org/name@{first}")).with("HF_ENDPOINT", server.url(""));
    assert_eq!(older.download(&model(1)).id(), format!("hf:{first}"));
    let none = Fetch::of("hf://org/none").with("HF_ENDPOINT", server.url(""));
    // A hub does not tell whether a model is private or does not exist.
    assert_eq!(none.resolve(None).failure(), "unauthorized");
}
