//! What every source has in common: it resolves to a snapshot, whose files are fetched while the
//! caller follows. Implemented by directories and by sources on other servers.

use std::{fmt::Debug, path::Path};

use onnxd_proto::domain::{Refusal, RefusalKind, fetch::Pin};

/// Follows the reading of a source, and may end it early.
pub type Progress<'a> = &'a dyn Follow;

/// See [`Progress`]. Implemented by functions, which never end it.
pub trait Follow {
    /// Called while a source is read.
    fn report(&self, transfer: Transfer);

    /// Called when the reading comes to a step of the update: fetch or stage.
    fn step(&self, _name: &'static str) {}

    /// Returns whether the content is not needed any more. Reading then ends with a refusal.
    fn is_cancelled(&self) -> bool {
        false
    }
}

impl<F: Fn(Transfer)> Follow for F {
    fn report(&self, transfer: Transfer) {
        self(transfer);
    }
}

/// Returns the refusal of reading that was cancelled.
pub(super) fn cancelled() -> Refusal {
    RefusalKind::Busy.because("reading the source was interrupted; retry the update")
}

/// How far the reading of a source has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes copied or downloaded so far.
    pub bytes: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes downloaded since the last report.
    pub downloaded: u64,
}

/// A source of versions. All methods block.
pub trait Source: Debug + Send {
    /// Identifies the source's current content. `known` is the snapshot that the caller already has.
    /// A remote source also downloads the files of another snapshot, and reports its progress.
    ///
    /// # Errors
    /// The source cannot be reached, or its content cannot be a version.
    fn resolve(
        &self,
        known: Option<&SnapshotId>,
        progress: Progress<'_>,
    ) -> Result<Resolved, Refusal>;

    /// Returns the id of the source's current content, or `None` if it is `known`. Downloads no files.
    ///
    /// # Errors
    /// The source cannot be reached, or its content cannot be a version.
    fn peek(
        &self,
        known: Option<&SnapshotId>,
        progress: Progress<'_>,
    ) -> Result<Option<SnapshotId>, Refusal>;
}

/// The result of resolving a source.
#[derive(Debug)]
pub enum Resolved {
    /// The snapshot that the caller knows.
    Unchanged,
    /// Another snapshot.
    Changed(Box<dyn Snapshot>),
}

/// A source's content at one moment. Fetching it later returns the same files or fails.
pub trait Snapshot: Debug + Send {
    /// Returns this snapshot's id, unique within the process.
    fn id(&self) -> &SnapshotId;

    /// Returns what holds a snapshot of another server together; `None` for a directory.
    fn pin(&self) -> Option<Pin> {
        None
    }

    /// Returns the files, as known before reading them.
    fn files(&self) -> &[SnapshotFile];

    /// Compares files with the checksums of the source's author, if there are any.
    ///
    /// # Errors
    /// A file differs or is missing.
    fn verify(&self, files: &[FetchedFile]) -> Result<(), Refusal>;

    /// Reads a file that proves others unchanged, see [`PROOFS`](super::selection::PROOFS); `None` if it is missing.
    ///
    /// # Errors
    /// The file cannot be read, or is too large.
    fn proof(&self, path: &str) -> Result<Option<Vec<u8>>, Refusal>;

    /// Copies the files into `target`, an existing empty directory.
    ///
    /// # Errors
    /// Not enough space, or a file cannot be read or written; the message names the file.
    fn fetch(&self, target: &Path, progress: Progress<'_>) -> Result<Fetched, Refusal>;
}

/// An opaque snapshot id. Equal ids mean equal contents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// Wraps an id chosen by a source.
    pub(in crate::models) fn new(name: String) -> Self {
        Self(name)
    }

    /// Returns the id as text, for logs and records.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Path relative to the version's directory, separated by `/`.
    pub path: String,
    /// Length of the file.
    pub bytes: u64,
    /// SHA-256 in hex, if known without reading the file.
    pub sha256: Option<String>,
}

/// A file that was fetched, or whose digest was already known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedFile {
    /// Path relative to the version's directory, separated by `/`.
    pub path: String,
    /// Length of the file.
    pub bytes: u64,
    /// SHA-256 of the bytes written, in hex.
    pub sha256: String,
}

/// The result of fetching a snapshot.
#[derive(Debug)]
pub struct Fetched {
    /// The files, in the snapshot's order.
    pub files: Vec<FetchedFile>,
    /// Whether the source certainly held this snapshot throughout. Only then does the snapshot's id
    /// identify the content.
    pub is_pinned: bool,
}
