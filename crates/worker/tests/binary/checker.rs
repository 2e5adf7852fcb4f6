//! Runs `onnxd-worker check` and `onnxd-worker compile` like the supervisor.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use onnxd_proto::{
    domain::{CheckLine, Checked, Refusal},
    exit::ExitStatus,
};
use serde_json::Value;

use crate::fixtures::{WORKER, model, onnxruntime};

/// The output and exit of a checker.
pub(crate) struct Outcome {
    /// The parts that passed, in order.
    pub(crate) passed: Vec<String>,
    /// The last line, if any.
    pub(crate) verdict: Option<Result<Checked, Refusal>>,
    pub(crate) output: Output,
}

impl Outcome {
    pub(crate) fn accepted(self) -> Checked {
        assert_eq!(self.output.status.code(), Some(ExitStatus::Success as i32));
        self.verdict.unwrap().unwrap()
    }

    pub(crate) fn refused(self) -> Refusal {
        assert_eq!(self.output.status.code(), Some(ExitStatus::Refused as i32));
        self.verdict.unwrap().unwrap_err()
    }
}

/// A check to run.
pub(crate) struct Check(Command);

impl Check {
    /// Creates a check of the version in `dir`.
    pub(crate) fn new(dir: &Path) -> Self {
        Self::with_library(&onnxruntime(), dir)
    }

    /// Creates a check of the model `name`.
    pub(crate) fn for_model(name: &str) -> Self {
        Self::new(&model(name))
    }

    pub(crate) fn with_library(library: &Path, dir: &Path) -> Self {
        let mut command = Command::new(WORKER);
        command.arg("check").arg("--onnxruntime").arg(library).arg("--version-dir").arg(dir);
        command.env("ORT_DISABLE_TELEMETRY", "1");
        Self(command)
    }

    pub(crate) fn with(mut self, option: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.arg(option).arg(value);
        self
    }

    /// Starts the check and discards its output.
    pub(crate) fn spawn(mut self) -> Child {
        self.0.stdout(Stdio::null()).spawn().unwrap()
    }

    pub(crate) fn run(mut self) -> Outcome {
        let output = self.0.output().unwrap();
        let (mut passed, mut verdict) = (Vec::new(), None);
        for line in str::from_utf8(&output.stdout).unwrap().lines() {
            assert!(verdict.is_none(), "the verdict is the last line");
            match serde_json::from_str(line).unwrap() {
                CheckLine::Passed(part) => passed.push(part),
                CheckLine::Accepted(checked) => verdict = Some(Ok(*checked)),
                CheckLine::Refused(refusal) => verdict = Some(Err(refusal)),
            }
        }
        Outcome { passed, verdict, output }
    }
}

/// Returns what `compile` prints for the version in `dir`.
pub(crate) fn compile(dir: &Path, compiled: &Path) -> Value {
    let output = Command::new(WORKER)
        .args(["compile", "--onnxruntime"])
        .arg(onnxruntime())
        .arg("--version-dir")
        .arg(dir)
        .arg("--compiled-dir")
        .arg(compiled)
        .env("ORT_DISABLE_TELEMETRY", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(ExitStatus::Success as i32));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the only compiled form below `root`.
pub(crate) fn compiled_form(root: &Path) -> PathBuf {
    let mut dirs = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    dirs.find(|path| path.is_dir()).unwrap()
}
