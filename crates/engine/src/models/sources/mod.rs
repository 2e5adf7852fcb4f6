//! Where versions come from. A source says cheaply what it holds ([`Source::resolve`]) and copies
//! that snapshot into a directory ([`Snapshot::fetch`]); what was written, not what was offered,
//! makes the version. [`Sources`] opens the source of a URI. Called by `update`, through the store.
//!
//! - [`directory`]: a directory with the files of the Hugging Face hub, which [`tree`] opens and
//!   [`selection`] selects; [`lister`] asks a confined process for those that only the graph knows.
//! - [`checksums`]: `SHA256SUMS`, where a source has one.
//! - [`digests`]: which files need not be read again.

pub mod checksums;
pub mod digests;
mod directory;
#[cfg(test)]
pub(crate) mod fake;
mod lister;
mod selection;
mod tree;

use std::{fmt::Debug, path::Path, sync::Arc};

use onnxd_proto::domain::{Refusal, SourceUri};

use crate::{
    models::sources::{
        digests::Digests,
        directory::Directory,
        lister::{Lister, Process},
    },
    pool::executable::WorkerExecutable,
};

/// Hears of bytes done and in all.
pub type Progress<'a> = &'a dyn Fn(u64, u64);

/// A place that versions come from. Blocking.
pub trait Source: Debug + Send {
    /// What the source holds now. `known` is the snapshot that the caller has already.
    ///
    /// # Errors
    /// It cannot be reached, or what it holds cannot be a version.
    fn resolve(&self, known: Option<&SnapshotId>) -> Result<Resolved, Refusal>;
}

/// What a source holds.
#[derive(Debug)]
pub enum Resolved {
    /// The snapshot that the caller knows.
    Unchanged,
    /// Another one.
    Changed(Box<dyn Snapshot>),
}

/// What a source holds at one moment, pinned: fetching it later gives the same files or fails.
pub trait Snapshot: Debug + Send {
    /// Names this snapshot among all that this process sees.
    fn id(&self) -> &SnapshotId;

    /// The files, as far as the source knows them before it is read.
    fn files(&self) -> &[SnapshotFile];

    /// Compares files with what the source's author says they are.
    ///
    /// # Errors
    /// One differs or is missing.
    fn verify(&self, files: &[FetchedFile]) -> Result<(), Refusal>;

    /// Copies the files into `target`, which exists and is empty.
    ///
    /// # Errors
    /// There is no room for them, or one cannot be read or written; the message names it.
    fn fetch(&self, target: &Path, progress: Progress<'_>) -> Result<Fetched, Refusal>;
}

/// The name of a snapshot. Opaque: equal names are equal contents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// A name that a source makes.
    pub(super) fn new(name: String) -> Self {
        Self(name)
    }
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Relative to the version's directory, with `/`.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256 in hex, where the source knows it without reading the file.
    pub sha256: Option<String>,
}

/// A file that was fetched, or was known before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedFile {
    /// Relative to the version's directory, with `/`.
    pub path: String,
    /// Length.
    pub bytes: u64,
    /// SHA-256 of what was written, in hex.
    pub sha256: String,
}

/// What was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// The files, in the order of the snapshot.
    pub files: Vec<FetchedFile>,
    /// Whether the source certainly held this snapshot all the while: only then may the content be
    /// recognised by the snapshot's name.
    pub is_pinned: bool,
}

/// Opens sources. Remembers what files were, so that unchanged ones are not read again.
#[derive(Clone, Debug)]
pub struct Sources {
    digests: Arc<Digests>,
    lister: Arc<dyn Lister>,
}

impl Sources {
    /// Sources whose model files are looked into by processes of this executable.
    pub fn new(executable: WorkerExecutable) -> Self {
        Self::with(Arc::new(Process::new(executable)))
    }

    fn with(lister: Arc<dyn Lister>) -> Self {
        Self { digests: Arc::default(), lister }
    }

    /// The source that a URI names.
    pub fn open(&self, uri: &SourceUri) -> Box<dyn Source> {
        match uri {
            SourceUri::Directory { path, choice } => Box::new(Directory::new(
                path.clone(),
                choice.clone(),
                Arc::clone(&self.digests),
                Arc::clone(&self.lister),
            )),
        }
    }
}
