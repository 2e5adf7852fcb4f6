//! Runs `onnxd-fetch` alone, confined.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use e2e::fixtures::onnxd_fetch;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::files::Files;

/// A source with a download directory.
pub(crate) struct Fetch {
    source: String,
    variables: Vec<(String, String)>,
    directory: TempDir,
}

/// What the executable said.
#[derive(Debug)]
pub(crate) struct Said {
    events: Vec<Value>,
    log: String,
}

impl Said {
    /// Returns the id of the snapshot.
    pub(crate) fn id(&self) -> &str {
        self.snapshot()["id"].as_str().unwrap()
    }

    /// Returns the snapshot.
    pub(crate) fn snapshot(&self) -> &Value {
        let found = self.events.iter().find_map(|event| event.get("snapshot"));
        found.unwrap_or_else(|| panic!("no snapshot: {self:?}"))
    }

    /// Returns the kind of the failure, or an empty text.
    pub(crate) fn failure(&self) -> &str {
        let last = self.events.last().unwrap_or(&Value::Null);
        last["failed"]["kind"].as_str().unwrap_or_default()
    }

    /// Returns whether the source is unchanged.
    pub(crate) fn is_unchanged(&self) -> bool {
        self.events == ["unchanged"]
    }

    /// Returns everything, to look for secrets.
    pub(crate) fn text(&self) -> String {
        format!("{:?} {}", self.events, self.log)
    }
}

impl Fetch {
    /// Prepares a fetch.
    pub(crate) fn of(source: impl Into<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { source: source.into(), variables: Vec::new(), directory }
    }

    /// Sets environment variables.
    pub(crate) fn with_all(self, variables: Vec<(&'static str, String)>) -> Self {
        variables.into_iter().fold(self, |fetch, (name, value)| fetch.with(name, value))
    }

    /// Sets an environment variable.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Resolves the source.
    pub(crate) fn resolve(&self, known: Option<&str>) -> Said {
        self.run(known, &[])
    }

    /// Resolves the source, and downloads and checks these files.
    pub(crate) fn download(&self, files: &Files) -> Said {
        let paths: Vec<&str> = files.iter().map(|(path, _)| path.as_str()).collect();
        let said = self.run(None, &paths);
        assert_eq!(said.events.last().unwrap(), "downloaded", "{said:?}");
        for (path, content) in files {
            let found = fs::read(self.directory.path().join(path)).unwrap();
            assert!(found == *content, "{path} differs");
        }
        said
    }

    /// Resolves the source and downloads these files, whatever comes of it.
    pub(crate) fn run_all(&self, paths: &[String]) -> Said {
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        self.run(None, &paths)
    }

    fn run(&self, known: Option<&str>, paths: &[&str]) -> Said {
        let about = json!({"source": self.source, "known": known, "allows_private": true,
                           "bytes_max": 1 << 30, "files_max": 100});
        let mut input = format!("{}\n", json!({"resolve": about}));
        if !paths.is_empty() {
            input.push_str(&format!("{}\n", json!({"download": paths})));
        }
        let mut command = Command::new(onnxd_fetch());
        command.current_dir(&self.directory).env_clear().env("ONNXD_LOG", "debug");
        command.envs(self.variables.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let events = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Said { events, log: String::from_utf8_lossy(&output.stderr).into_owned() }
    }
}
