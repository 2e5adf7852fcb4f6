//! The conversation between the supervisor and `onnxd-fetch`: one JSON object per line, requests on
//! standard input and events on standard output. The process downloads into its working directory,
//! where `.onnxd-fetch/` is its own, and ends with the requests or with its parent. Between polls of
//! a source, keep the directory, or at least its [`STATE`]: it makes the next poll and download cheaper.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The folder of the fetcher's own files, which no source may contain.
pub const OWN_FOLDER: &str = ".onnxd-fetch";
/// The small file in it that makes the next poll cheap: how to ask whether the source changed.
pub const STATE: &str = ".onnxd-fetch/.state.json";

/// A request of the supervisor. The first is always [`FetchRequest::Resolve`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchRequest {
    /// Identify what the source holds. Answered by [`FetchEvent::Unchanged`] or
    /// [`FetchEvent::Snapshot`]. An image's layers are downloaded to list its files, unless
    /// [`Resolve::id_only`] is set, so [`FetchEvent::Progress`] may precede that.
    Resolve(Resolve),
    /// Download files of the snapshot, named by their paths. Answered by any number of
    /// [`FetchEvent::Progress`] and one [`FetchEvent::Downloaded`]. A file that exists in the working
    /// directory with the right length and digest is not downloaded again. Files of an earlier
    /// snapshot that this one lacks are removed.
    Download(Vec<String>),
}

/// What to resolve, and the limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolve {
    /// The source, a URI without parameters.
    pub source: String,
    /// The id of the snapshot that the supervisor already has.
    pub known: Option<String>,
    /// Whether addresses of private networks and of this machine are allowed.
    pub allows_private: bool,
    /// Whether to offer the signature of `SHA256SUMS` as well, which that cannot list.
    #[serde(default)]
    pub wants_signature: bool,
    /// Whether only the id is of interest. The snapshot then lists no files, and none of them can be
    /// downloaded.
    #[serde(default)]
    pub id_only: bool,
    /// Maximum bytes to download.
    pub bytes_max: u64,
    /// Maximum files of a snapshot.
    pub files_max: usize,
}

/// An event of `onnxd-fetch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchEvent {
    /// The source still holds the known snapshot.
    Unchanged,
    /// The source holds this snapshot.
    Snapshot(RemoteSnapshot),
    /// Bytes downloaded of the last request, and their total.
    Progress {
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all.
        total: u64,
    },
    /// All files of the last request are in the working directory.
    Downloaded,
    /// The request failed. The process exits.
    Failed(FetchError),
}

/// A source's content at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteSnapshot {
    /// Identifies the content: `hf:COMMIT`, `sha256:DIGEST of SHA256SUMS`, and so on. Equal ids mean
    /// equal contents. Sent back as [`Resolve::known`].
    pub id: String,
    /// What holds the content together.
    pub pin: Pin,
    /// All files, sorted by path. Empty if only the id was asked for.
    pub files: Vec<RemoteFile>,
    /// Notes for the operator.
    pub notes: Vec<String>,
}

/// What guarantees that the files of a snapshot belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// A commit of the hub.
    Commit,
    /// The digest of a manifest of a container registry.
    Digest,
    /// A registered version of MLflow.
    Version,
    /// A `SHA256SUMS`, uploaded last.
    Checksums,
    /// Two equal listings, which is weaker: an upload may pause between files.
    Listing,
}

impl fmt::Display for Pin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Commit => "a commit",
            Self::Digest => "a digest",
            Self::Version => "a registered version",
            Self::Checksums => "SHA256SUMS",
            Self::Listing => "two equal listings",
        })
    }
}

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteFile {
    /// Path relative to the source, separated by `/`; see [`super::is_inside`].
    pub path: String,
    /// Length, if the source states it.
    pub bytes: Option<u64>,
    /// SHA-256 in hex, if the source states it.
    pub sha256: Option<String>,
}

/// Why a source could not be resolved or a file not be downloaded. Contains no secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchError {
    pub kind: FetchErrorKind,
    /// Names the source or the file, the cause, and the remedy.
    pub message: String,
    /// Seconds to wait, if the server asked for a pause.
    pub retry_after_seconds: Option<u64>,
}

impl std::fmt::Display for FetchError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for FetchError {}

impl FetchErrorKind {
    /// Creates an error of this kind.
    pub fn because(self, message: impl Into<String>) -> FetchError {
        FetchError { kind: self, message: message.into(), retry_after_seconds: None }
    }
}

/// Kinds of [`FetchError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchErrorKind {
    /// No answer, a broken connection, a time limit or a fault of the server. Retry later.
    Unreachable,
    /// The server refused the credentials, or wants some.
    Unauthorized,
    /// The source does not exist.
    NotFound,
    /// The files do not belong together yet: an upload is running. Retry later.
    Incomplete,
    /// A file differs from the digest that the source states.
    Checksum,
    /// The source's answer is malformed, or it names files outside itself.
    Malformed,
    /// The source exceeds a limit.
    TooLarge,
    /// The disk is full.
    Space,
    /// The address or the redirect is not allowed.
    Forbidden,
    /// A variable is missing or invalid, or a file that one names is. A retry fails, too.
    Configuration,
    /// A fault of this machine or of onnxd.
    Internal,
}
