//! The record of a generation, as the state directory keeps it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Drift, Facts};

/// What a generation is. Written once, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version's directory name: the SHA-256 of its manifest, in hex.
    pub version: String,
    /// The directory that the model was configured with when this was committed. Where the
    /// configuration names another one at the next start, that one is staged.
    pub configured_source: PathBuf,
    /// What the checker found out about the version.
    pub facts: Facts,
    /// How far it was from what served before, where that was measured.
    #[serde(default)]
    pub drift: Option<Drift>,
}
