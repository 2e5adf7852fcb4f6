//! What `onnxd-worker list` finds in a source: the model file and the files that hold its weights.
//! The supervisor reads one line of it; it parses no model file itself.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

use serde::{Deserialize, Serialize};

use super::Refusal;

/// The line that the listing process prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListLine {
    /// The source has one model to take.
    Listed(Box<Listing>),
    /// It has none, or the choice is not clear.
    Refused(Refusal),
}

/// The files of a source that only the model's graph knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The model file; `None` of static embeddings, which need no graph.
    pub model: Option<ListedModel>,
    /// Files that hold weights of the graph, relative to the source, sorted.
    pub external: Vec<String>,
    /// What an operator may want to know, for the log.
    pub notes: Vec<String>,
}

/// The chosen model file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedModel {
    /// Relative to the source, with `/`.
    pub file: String,
    /// Whether the source or its URI names it or its variant.
    pub is_stated: bool,
    /// Why this one, for the log.
    pub reason: String,
    /// The file as it was when it was read.
    pub stamp: FileStamp,
}

/// What tells whether a file has changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileStamp {
    /// The device.
    pub device: u64,
    /// The inode.
    pub inode: u64,
    /// The length.
    pub bytes: u64,
    /// When the content changed last: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// When content or attributes changed last.
    pub changed: (i64, i64),
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
