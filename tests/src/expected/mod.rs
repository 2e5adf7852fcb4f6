//! What the reference libraries compute with the model directories in `tests/models`, as requests
//! and the answers that each must have.
//!
//! - [`Directory`]: a directory with its `expected.json`.
//! - [`Case`]: one request and its right answer; [`cases`] makes them of an `expected.json`.
//! - [`answer`]: reads the numbers of an answer, and says how far they are from the right ones.
//! - [`onnx`]: makes another version of a graph.
//! - [`clients`]: clients that ask cases without a pause, and record what they saw.

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

/// A model directory, and what the reference libraries compute with it.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Its name in `tests/models`; a model is served under it.
    pub name: String,
    /// What is served.
    pub path: PathBuf,
    /// Its `expected.json`.
    pub expected: Value,
}

/// One request to a model, and its right answer.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is asked, for people.
    pub what: String,
    /// The path.
    pub path: &'static str,
    /// The body, without the model's name.
    pub body: Value,
    /// How the answer is read.
    pub reading: Reading,
    /// The numbers that it must hold.
    pub right: Rows,
    /// How far it may be from them.
    pub limit: Limit,
}

impl Directory {
    /// A directory in `tests/models`. The hub's cache is unpacked below `scratch`.
    ///
    /// # Panics
    /// It is not there, or its `expected.json` is damaged.
    pub fn open(name: &str, scratch: &Path) -> Self {
        let path = root().join(name);
        let text = fs::read(path.join("expected.json"));
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let expected = serde_json::from_slice(&text).unwrap();
        let archive = path.join("cache.tar");
        let path = if archive.is_file() { unpack(&archive, &scratch.join(name)) } else { path };
        Self { name: name.to_owned(), path, expected }
    }

    /// A copy of what is served in which a test may change files. Links become what they lead to.
    ///
    /// # Panics
    /// The disk refuses.
    pub fn copy_to(&self, to: &Path) -> PathBuf {
        fixtures::replace_model(&self.path, to);
        let _ = fs::remove_file(to.join("expected.json"));
        to.to_owned()
    }
}

/// Where the directories are.
pub fn root() -> PathBuf {
    fixtures::workspace().join("tests/models")
}

/// The names of all directories, in order.
///
/// # Panics
/// They are not there.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(root()).unwrap().flatten();
    let directories = entries.filter(|entry| entry.path().join("expected.json").is_file());
    let mut names: Vec<String> =
        directories.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Unpacks an archive of a hub's cache, and gives its one snapshot.
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
    assert!(entries.next().is_none(), "{} holds more than one entry", directory.display());
    entry
}
