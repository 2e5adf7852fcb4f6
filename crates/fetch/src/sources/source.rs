//! The interface of all kinds of sources, and what they describe.

use async_trait::async_trait;
use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind, Pin, RemoteFile};

use super::answer::{Opened, Validators};
use crate::{digest::Digest, folder::Folder, part::Offset};

/// A source on another server.
#[async_trait(?Send)]
pub(crate) trait Source {
    /// Returns what the source contains, or `None` if the server says that nothing changed since it
    /// sent `validators`.
    async fn resolve(
        &self,
        known: &KnownSnapshot,
        files_max: usize,
    ) -> Result<Option<Snapshot>, FetchError>;

    /// Returns the files that the snapshot's signature needs and that the snapshot does not list.
    async fn signature(&self, _: &Snapshot) -> Result<Vec<File>, FetchError> {
        Ok(Vec::new())
    }

    /// Lists the files in the snapshot's archives, which were downloaded, and unpacks them into
    /// parts. Keeps the archives, so that another process need not download them again.
    async fn unpack(
        &self,
        snapshot: Snapshot,
        _: &UnpackTarget<'_>,
    ) -> Result<Snapshot, FetchError> {
        Ok(snapshot)
    }

    /// Completes the length and digest of a file, if the server states them.
    async fn stat(&self, _: &mut File) -> Result<(), FetchError> {
        Ok(())
    }

    /// Opens a file, from an offset if the server supports that.
    async fn open(&self, file: &File, from: &Offset) -> Result<Opened, FetchError>;

    /// Fails if the snapshot is no longer what the source contains. Called after a download from
    /// sources that have nothing that holds their files together.
    async fn confirm(&self, _: &Snapshot, _files_max: usize) -> Result<(), FetchError> {
        Ok(())
    }
}

/// Where a source unpacks archives, and how much.
pub(crate) struct UnpackTarget<'a> {
    pub(crate) folder: &'a Folder,
    /// Maximum bytes of all files.
    pub(crate) bytes_max: u64,
    /// Maximum files of a snapshot.
    pub(crate) files_max: usize,
    /// Called while the work goes on.
    pub(crate) tick: &'a dyn Fn(),
}

/// What an earlier fetch saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownSnapshot {
    /// The id of the snapshot.
    pub(crate) id: Option<String>,
    /// Identify the answer that described it.
    pub(crate) validators: Validators,
}

/// The content of a source at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) pin: Pin,
    pub(crate) files: Vec<File>,
    /// Archives to download before the files are known, with paths in the fetcher's own folder.
    pub(crate) archives: Vec<File>,
    pub(crate) notes: Vec<String>,
    pub(crate) validators: Validators,
}

impl Snapshot {
    /// Returns the kind of error for a file that differs from the snapshot. A commit or digest
    /// cannot change, but an upload can be in progress.
    pub(crate) fn mismatch(&self) -> FetchErrorKind {
        match self.pin {
            Pin::Checksums | Pin::Listing => FetchErrorKind::Incomplete,
            Pin::Commit | Pin::Digest | Pin::Version => FetchErrorKind::Checksum,
        }
    }
}

/// A file of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) bytes: Option<u64>,
    pub(crate) digest: Option<Digest>,
    /// Identifies the content if there is no digest: the ETag in a listing, or the snapshot's id.
    pub(crate) identity: Option<String>,
}

impl From<&File> for RemoteFile {
    fn from(file: &File) -> Self {
        let sha256 = file.digest.as_ref().and_then(Digest::sha256).map(str::to_owned);
        Self { path: file.path.clone(), bytes: file.bytes, sha256 }
    }
}
