//! Requests to the model directories in `tests/models`, and the answers that the reference
//! libraries compute.
//!
//! - [`Directory`]: a directory with its `expected.json`.
//! - [`Case`]: a request and its expected answer; [`cases`] builds them from an `expected.json`.
//! - [`answer`]: extracts numbers from answers and compares them.
//! - [`onnx`]: derives a second version of a graph.
//! - [`clients`]: clients that send requests continuously and record the answers.

pub mod answer;
pub mod cases;
pub mod clients;
pub mod onnx;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::fixtures;

pub use self::{
    answer::{Limit, Reading, Rows},
    cases::cases,
};

/// A model directory and the reference results for it.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Name in `tests/models`; also the name of the served model.
    pub name: String,
    /// The directory to serve.
    pub path: PathBuf,
    /// The contents of `expected.json`.
    pub expected: Value,
}

/// A request to a model, and its expected answer.
#[derive(Clone, Debug)]
pub struct Case {
    /// Description, for messages.
    pub what: String,
    /// The path.
    pub path: &'static str,
    /// The body, without the model's name.
    pub body: Value,
    /// How to read the answer.
    pub reading: Reading,
    /// The expected numbers.
    pub reference: Rows,
    /// The tolerance.
    pub limit: Limit,
}

impl Directory {
    /// Opens a directory in `tests/models`. A packed hub cache is unpacked below `scratch`.
    ///
    /// # Panics
    /// Panics if it is missing or its `expected.json` is damaged.
    pub fn open(name: &str, scratch: &Path) -> Self {
        let path = root().join(name);
        let text = fs::read(path.join("expected.json"));
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let expected = serde_json::from_slice(&text).unwrap();
        let archive = path.join("cache.tar");
        let path = if archive.is_file() { unpack(&archive, &scratch.join(name)) } else { path };
        Self { name: name.to_owned(), path, expected }
    }

    /// Copies the model so that a test can modify it. Symbolic links are replaced with their
    /// targets.
    ///
    /// # Panics
    /// Panics on an I/O error.
    pub fn copy_to(&self, to: &Path) -> PathBuf {
        fixtures::replace_model(&self.path, to);
        let _ = fs::remove_file(to.join("expected.json"));
        to.to_owned()
    }
}

/// Returns the directory of all models.
pub fn root() -> PathBuf {
    fixtures::workspace().join("tests/models")
}

/// Returns the names of all model directories, sorted.
///
/// # Panics
/// Panics if the directory is missing.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(root()).unwrap().flatten();
    let directories = entries.filter(|entry| entry.path().join("expected.json").is_file());
    let mut names: Vec<String> =
        directories.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Unpacks an archived hub cache and returns its only snapshot.
fn unpack(archive: &Path, to: &Path) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    let status = Command::new("tar").arg("xf").arg(archive).arg("-C").arg(to).status().unwrap();
    assert!(status.success(), "tar: {status}");
    let repository = only_entry(to);
    only_entry(&repository.join("snapshots"))
}

fn only_entry(directory: &Path) -> PathBuf {
    let mut entries = fs::read_dir(directory).unwrap().flatten();
    let entry = entries.next().unwrap().path();
    assert!(entries.next().is_none(), "{} contains more than one entry", directory.display());
    entry
}
