//! What the commands print with `--json`, in the types of the admin interface.

use std::{collections::BTreeMap, process::Output};

pub use onnxd_admin::api::{
    Drift, Load, LoadStatus, ModelState, ModelStatus, Outcome as Committed, Unloaded, WorkerState,
    WorkerStatus,
};
use serde::{Deserialize, de::DeserializeOwned};

/// `onnxd status`, with lookups that fail a test.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// In the order of the configuration.
    pub models: Vec<ModelStatus>,
    /// In the order of their ids.
    pub workers: Vec<WorkerStatus>,
    /// What happened since the start, by name.
    pub counters: BTreeMap<String, u64>,
}

impl From<onnxd_admin::api::Status> for Status {
    fn from(status: onnxd_admin::api::Status) -> Self {
        let onnxd_admin::api::Status { models, workers, counters, .. } = status;
        Self { models, workers, counters }
    }
}

impl Status {
    /// One model.
    ///
    /// # Panics
    /// It is not served.
    pub fn model(&self, name: &str) -> &ModelStatus {
        let found = self.models.iter().find(|model| model.name == name);
        found.unwrap_or_else(|| panic!("{name} is not among {:?}", self.models))
    }

    /// A counter.
    ///
    /// # Panics
    /// There is none of this name.
    pub fn counter(&self, name: &str) -> u64 {
        *self.counters.get(name).unwrap_or_else(|| panic!("{name} is not in {:?}", self.counters))
    }

    /// The workers' pids.
    pub fn pids(&self) -> Vec<i32> {
        self.workers.iter().filter_map(|worker| worker.pid).collect()
    }

    /// How often workers were started again.
    pub fn restarts(&self) -> u64 {
        self.workers.iter().map(|worker| worker.restarts).sum()
    }
}

/// An update that did not happen. The kind is the word that travels: tests hold the interface to
/// its words, whatever the types call them.
#[derive(Clone, Debug, Deserialize)]
pub struct Refusal {
    /// The class of the cause.
    pub kind: String,
    /// The cause.
    pub message: String,
}

/// Reads the one line that a command printed with `--json`.
///
/// # Panics
/// The command printed something else, or its exit code does not fit.
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
        Some(1) => {
            let refused = serde_json::from_str::<Refused>(line);
            Err(refused.unwrap_or_else(|error| panic!("{error}: {line}")).error)
        }
        _ => panic!("{output:?}"),
    }
}
