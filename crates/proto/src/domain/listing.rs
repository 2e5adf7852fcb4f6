//! The output of `onnxd-worker list`: a source's model file and the files with its weights. The
//! supervisor reads this one line; it never parses a model file itself.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

use serde::{Deserialize, Serialize};

use super::Refusal;

/// The line that the lister prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListLine {
    /// The source has exactly one suitable model.
    Listed(Box<Listing>),
    /// The source has no model, or the choice is ambiguous.
    Refused(Refusal),
}

/// Files of a source that only the model's graph names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The model file; `None` for static embeddings, which need no graph.
    pub model: Option<ListedModel>,
    /// Files with weights of the graph, relative to the source, sorted.
    pub external: Vec<String>,
    /// Notes for the operator, logged by the supervisor.
    pub notes: Vec<String>,
}

/// The chosen model file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedModel {
    /// Path relative to the source, separated by `/`.
    pub file: String,
    /// Whether the source or its URI names the file or its variant.
    pub is_stated: bool,
    /// Why this file was chosen, for the log.
    pub reason: String,
    /// State of the file when it was read.
    pub stamp: FileStamp,
}

/// Metadata that changes when a file changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileStamp {
    pub device: u64,
    pub inode: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Time of the last change to the content: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Time of the last change to content or attributes: seconds and nanoseconds.
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
