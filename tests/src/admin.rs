//! What the commands print with `--json`.

use std::{collections::BTreeMap, process::Output};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// `onnxd status`.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// In the order of the configuration.
    pub models: Vec<ModelStatus>,
    /// In the order of their ids.
    pub workers: Vec<WorkerStatus>,
    /// What happened since the start, by name.
    pub counters: BTreeMap<String, u64>,
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

/// A served model.
#[derive(Clone, Debug, Deserialize)]
pub struct ModelStatus {
    /// Its served name.
    pub name: String,
    /// `loaded`, `unloaded`, `loading`, `not_loaded`, or `unloading`.
    pub state: String,
    /// What is committed; 0 is none.
    pub generation: u64,
    /// Its content; empty where there is none.
    #[serde(deserialize_with = "or_default")]
    pub version: String,
    /// `embed`.
    #[serde(deserialize_with = "or_default")]
    pub task: String,
    /// Components of one embedding.
    #[serde(deserialize_with = "or_default")]
    pub dimension: u32,
    /// How far it is from what was served before, where that was measured.
    pub drift: Option<Drift>,
    /// Versions that failed their probation.
    pub quarantined: Vec<String>,
}

/// Cosines between a generation's embeddings and those of the one before.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Drift {
    /// The smallest.
    pub min_cosine: f64,
    /// The mean.
    pub mean_cosine: f64,
}

/// A worker.
#[derive(Clone, Debug, Deserialize)]
pub struct WorkerStatus {
    /// From 0.
    pub id: u64,
    /// None while there is no process.
    pub pid: Option<i32>,
    /// None where it could not be pinned.
    pub cpu: Option<u16>,
    /// What it is doing.
    pub state: String,
    /// What it has loaded, by model.
    pub generations: BTreeMap<String, u64>,
    /// How it loaded that, by model.
    pub loads: BTreeMap<String, LoadStatus>,
    /// Its own memory, without what it shares; None while there is no process.
    pub memory_bytes: Option<u64>,
    /// How often it was started again.
    pub restarts: u64,
}

/// How a worker loaded what it serves.
#[derive(Clone, Debug, Deserialize)]
pub struct LoadStatus {
    /// How long requests had to wait for it; 0 where it was loaded ahead.
    pub load_micros: u64,
    /// Whether the weights are those that all workers share.
    pub compiled: bool,
    /// Since when it serves it; None where it serves nothing.
    pub seconds_ago: Option<u64>,
}

/// A committed update or rollback.
#[derive(Clone, Debug, Deserialize)]
pub struct Committed {
    /// The model.
    pub model: String,
    /// Its new generation.
    pub generation: u64,
    /// Its content.
    pub version: String,
    /// What was served before.
    pub previous_generation: u64,
    /// `ahead` or `lazy`.
    pub load: String,
    /// How long it took.
    pub seconds: f64,
}

/// An update that did not happen.
#[derive(Clone, Debug, Deserialize)]
pub struct Refusal {
    /// The class of the cause.
    pub kind: String,
    /// The cause.
    pub message: String,
}

/// A model that was given back.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unloaded {
    /// The model.
    pub model: String,
    /// What served until then.
    pub generation: u64,
    /// How long it took.
    pub seconds: f64,
}

/// What is null where nothing serves.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
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
