//! How an update is told to whoever asked for it: its steps and its outcome. One line of JSON each in
//! the admin interface.

use serde::{Deserialize, Serialize};

use super::Drift;
use crate::generation::Generation;

/// When workers load a new version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Before the commit, one worker after the other, beside what it serves
    #[default]
    Ahead,
    /// Each worker when it notices the commit, before its next inference
    Lazy,
}

/// What an update did; the last line of its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The served name.
    pub model: String,
    /// What serves now.
    pub generation: Generation,
    /// The digest of its content.
    pub version: String,
    /// What served before; 0 is none.
    pub previous_generation: Generation,
    /// When workers load it.
    pub load: Load,
    /// From the call to the commit.
    pub seconds: f64,
}

/// What an unload did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unloaded {
    /// The served name.
    pub model: String,
    /// What was served until then; 0 is none.
    pub generation: Generation,
    /// From the call to the moment at which workers had dropped it.
    pub seconds: f64,
}

/// A step that an update has taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The source's files are being copied.
    Staging {
        /// So far.
        bytes: u64,
        /// In all.
        of: u64,
    },
    /// The source's files stand in the state directory.
    Staged {
        /// The digest of the content.
        version: String,
        /// All files.
        bytes: u64,
        /// How long it took.
        seconds: f64,
    },
    /// A part of the check has passed.
    Passed {
        /// As the checker calls it.
        part: String,
    },
    /// The candidate can serve.
    Checked {
        /// Components of one embedding.
        dimension: u32,
        /// How far it is from what serves.
        drift: Option<Drift>,
        /// Why workers will load the plain model, where they will.
        not_compiled: Option<String>,
        /// How long it took.
        seconds: f64,
    },
    /// A worker has loaded it beside what it serves.
    Loaded {
        /// Which.
        worker: usize,
        /// How many have, of those that were asked.
        done: usize,
        /// How many are asked.
        of: usize,
    },
}
