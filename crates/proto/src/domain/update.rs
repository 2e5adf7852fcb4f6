//! Progress and outcome of an update, as reported to the caller: one line of JSON each in the admin
//! interface.

use serde::{Deserialize, Serialize};

use super::Drift;
use crate::generation::Generation;

/// When workers load a new version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Before the commit, one worker at a time, while the serving version keeps serving
    #[default]
    Ahead,
    /// After the commit, each worker before its next inference
    Lazy,
}

/// Outcome of an update; the last line of its response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The served name.
    pub model: String,
    /// Generation now serving.
    pub generation: Generation,
    /// Digest of its content.
    pub version: String,
    /// Generation served before; 0 means none.
    pub previous_generation: Generation,
    pub load: Load,
    /// Seconds from the call to the commit.
    pub seconds: f64,
}

/// Outcome of an unload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unloaded {
    /// The served name.
    pub model: String,
    /// Generation served until then; 0 means none.
    pub generation: Generation,
    /// Seconds from the call until all workers had dropped it.
    pub seconds: f64,
}

/// Progress of an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The source's files are being copied.
    Staging {
        /// Bytes copied so far.
        bytes: u64,
        /// Bytes in total.
        of: u64,
    },
    /// The source's files have been copied to the state directory.
    Staged {
        /// Digest of the content.
        version: String,
        /// Bytes of all files.
        bytes: u64,
        /// Duration in seconds.
        seconds: f64,
    },
    /// A part of the check has passed.
    Passed {
        /// The checker's name for it.
        part: String,
    },
    /// The candidate can serve.
    Checked {
        /// Components of an embedding.
        dimension: u32,
        /// Drift from the serving version.
        drift: Option<Drift>,
        /// Why workers will load the plain model, if they will.
        not_compiled: Option<String>,
        /// Duration in seconds.
        seconds: f64,
    },
    /// A worker has loaded the candidate ahead.
    Loaded {
        /// Index of the worker.
        worker: usize,
        /// Workers that have loaded it.
        done: usize,
        /// Workers that load it in total.
        of: usize,
    },
    /// Documents of the model's collections are being embedded by the candidate.
    Indexing(IndexStatus),
    /// The indexes of all collections are complete for the candidate.
    Indexed {
        /// Documents of the model.
        documents: u64,
        /// The version whose vectors are kept, because they are in the same space.
        reused_from: Option<String>,
        /// Duration in seconds.
        seconds: f64,
    },
}

/// How far the indexes of a model are for a version.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexStatus {
    /// Documents that have a vector of the version.
    pub done: u64,
    /// Documents of the model.
    pub of: u64,
    /// Documents embedded per second, once it is known.
    pub per_second: Option<f64>,
    /// Seconds until all are embedded at that rate.
    pub seconds_left: Option<f64>,
}
