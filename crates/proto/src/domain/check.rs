//! What the checking process reports. The supervisor reads it line by line.

use serde::{Deserialize, Serialize};

use super::{Facts, Refusal, cost::CostTable};

/// What the checker process prints, one line of JSON each: what has passed, and at last the
/// verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckLine {
    /// A part of the check has passed: "load", "shapes", "canary", "drift", "compile".
    Passed(String),
    /// The candidate can serve.
    Accepted(Box<Checked>),
    /// It cannot.
    Refused(Refusal),
}

/// What the checker says of a candidate that can serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// What it found out.
    pub facts: Facts,
    /// How far the embeddings are from the serving generation's, where there is one to compare.
    pub drift: Option<Drift>,
    /// How many of the candidate's own canary texts came out as it says.
    pub canaries: u32,
    /// What runs cost on this machine, where that was measured.
    #[serde(default)]
    pub costs: Option<CostTable>,
    /// Why there is no compiled form, where there is none; workers load the plain model then.
    pub not_compiled: Option<String>,
}

/// Cosines between the candidate's embeddings and the serving generation's, over fixed texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// The smallest.
    pub min_cosine: f64,
    /// The mean.
    pub mean_cosine: f64,
    /// How many texts.
    pub probes: u32,
}
