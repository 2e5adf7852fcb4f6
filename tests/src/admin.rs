//! Output of `onnxd --json` commands, in the types of the admin interface.

use std::{collections::BTreeMap, process::Output};

pub use onnxd_admin::api::{
    Drift, Load, LoadStatus, ModelState, ModelStatus, Outcome as Committed, Unloaded, WorkerState,
    WorkerStatus,
};
use serde::{Deserialize, de::DeserializeOwned};

/// Output of `onnxd status`, with lookups that panic when nothing is found.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// In configuration order.
    pub models: Vec<ModelStatus>,
    /// Sorted by id.
    pub workers: Vec<WorkerStatus>,
    /// Event counts since the start, by name.
    pub counters: BTreeMap<String, u64>,
}

impl From<onnxd_admin::api::Status> for Status {
    fn from(status: onnxd_admin::api::Status) -> Self {
        let onnxd_admin::api::Status { models, workers, counters, .. } = status;
        Self { models, workers, counters }
    }
}

impl Status {
    /// Returns a model's status.
    ///
    /// # Panics
    /// Panics if the model is not served.
    pub fn model(&self, name: &str) -> &ModelStatus {
        let found = self.models.iter().find(|model| model.name == name);
        found.unwrap_or_else(|| panic!("{name} is not among {:?}", self.models))
    }

    /// Returns a counter.
    ///
    /// # Panics
    /// Panics if there is no such counter.
    pub fn counter(&self, name: &str) -> u64 {
        *self.counters.get(name).unwrap_or_else(|| panic!("{name} is not in {:?}", self.counters))
    }

    /// Returns the workers' pids.
    pub fn pids(&self) -> Vec<i32> {
        self.workers.iter().filter_map(|worker| worker.pid).collect()
    }

    /// Returns the number of worker restarts.
    pub fn restarts(&self) -> u64 {
        self.workers.iter().map(|worker| worker.restarts).sum()
    }
}

/// A refused update. `kind` is a string rather than an enum, so that tests pin the words on the
/// wire.
#[derive(Clone, Debug, Deserialize)]
pub struct Refusal {
    /// Class of the cause.
    pub kind: String,
    /// The cause.
    pub message: String,
}

/// Parses the one line that a command printed with `--json`.
///
/// # Panics
/// Panics if the output is not one line, or contradicts the exit code.
pub fn verdict<T: DeserializeOwned>(output: &Output) -> Result<T, Refusal> {
    #[derive(Deserialize)]
    struct Refused {
        error: Refusal,
    }
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let line = text.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {output:?}"));
    assert!(!line.contains('\n'), "more than one line: {output:?}");
    match output.status.code() {
        Some(0) => Ok(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))),
        Some(code @ (1 | 3)) => {
            let refused = serde_json::from_str::<Refused>(line);
            let refusal = refused.unwrap_or_else(|error| panic!("{error}: {line}")).error;
            assert_eq!(code == 3, refusal.kind == "superseded", "{output:?}");
            Err(refusal)
        }
        _ => panic!("{output:?}"),
    }
}
