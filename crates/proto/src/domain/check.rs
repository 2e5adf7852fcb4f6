//! The checker's report, which the supervisor reads line by line.

use serde::{Deserialize, Serialize};

use super::{Facts, Refusal, cost::CostTable};

/// One line of JSON from the checker: a passed part, or finally the verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckLine {
    /// A part of the check has passed: "load", "shapes", "canary", "drift", "compile".
    Passed(String),
    /// The candidate can serve.
    Accepted(Box<Checked>),
    /// The candidate cannot serve.
    Refused(Refusal),
}

/// Report about an accepted candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    pub facts: Facts,
    /// Drift from the serving generation's embeddings, if there is one to compare with.
    pub drift: Option<Drift>,
    /// Number of the candidate's own canary texts that produced the declared output.
    pub canaries: u32,
    /// Cost of runs on this machine, if measured.
    #[serde(default)]
    pub costs: Option<CostTable>,
    /// Why the candidate has no compiled form, if it has none. Workers then load the plain model.
    pub not_compiled: Option<String>,
}

/// Cosines between the candidate's embeddings and the serving generation's, over fixed texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Minimum over all texts.
    pub min_cosine: f64,
    /// Mean over all texts.
    pub mean_cosine: f64,
    /// Number of texts.
    pub probes: u32,
}

/// The worker's report on whether it can run at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// [`crate::BUILD_ID`] of the worker.
    pub build_id: String,
    /// Why ONNX Runtime or the sandbox cannot be used, if so.
    pub failure: Option<String>,
}
