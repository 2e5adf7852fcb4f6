//! What travels between a supervisor and its clients. Fields are added, never renamed or removed:
//! a client of one release talks to the supervisor of the release before and after it.
//!
//! | call | request | response |
//! |---|---|---|
//! | `GET /admin/status` | | [`Status`] |
//! | `POST /admin/models/MODEL/update` | [`UpdateCall`] | a line for each [`Step`], then [`Outcome`] |
//! | `POST /admin/models/MODEL/rollback` | [`RollbackCall`] | the same |
//! | `POST /admin/models/MODEL/unload` | | [`Unloaded`] |
//!
//! A refusal is an [`ErrorBody`] with the HTTP status of [`http_status`]. Once a step has been sent
//! the status is 200, and the error is the last line.

use std::{collections::BTreeMap, fmt};

use hyper::StatusCode;
pub use onnxd_proto::domain::{
    Drift, Guess, Load, Outcome, Refusal, RefusalKind, Shortened, Step, SwitchFacts, Task, Unloaded,
};
use onnxd_proto::generation::Generation;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The content type of every request body, and of responses that are one JSON document.
pub const JSON: &str = "application/json";
/// The content type of responses that are one JSON document a line.
pub const JSON_LINES: &str = "application/x-ndjson";

/// The path of the status.
pub const STATUS_PATH: &str = "/admin/status";

/// What can be done to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Replace it.
    Update,
    /// Serve an earlier version.
    Rollback,
    /// Release its memory.
    Unload,
}

impl Verb {
    /// The last part of the path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Rollback => "rollback",
            Self::Unload => "unload",
        }
    }

    /// The path of the call for a model. A model's served name needs no escaping; `{model}` makes
    /// the router's template.
    pub fn path(self, model: &str) -> String {
        format!("/admin/models/{model}/{}", self.as_str())
    }
}

/// The body of an update call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateCall {
    /// The URI of the new version, such as the absolute path of a directory; the model's own source
    /// if absent.
    pub from: Option<String>,
    /// When workers load it.
    pub load: Load,
    /// Accept a version that failed its probation before.
    pub force: bool,
    /// Accept embeddings of another dimension.
    pub allow_dimension_change: bool,
}

/// The body of a rollback call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RollbackCall {
    /// The generation whose version is served again; the newest with another version if absent.
    pub to: Option<Generation>,
}

/// The body of a refusal, and the last line of a stream that ends with one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Why nothing was done.
    pub error: Refusal,
}

/// The HTTP status of a refusal. The one table of the admin interface; `kind` in the body says more.
pub fn http_status(kind: RefusalKind) -> StatusCode {
    match kind {
        RefusalKind::Malformed => StatusCode::BAD_REQUEST,
        RefusalKind::NotFound => StatusCode::NOT_FOUND,
        // What is asked for conflicts with what happened meanwhile.
        RefusalKind::Superseded | RefusalKind::Quarantined => StatusCode::CONFLICT,
        // The candidate cannot serve; asking again changes nothing.
        RefusalKind::Contract
        | RefusalKind::Load
        | RefusalKind::Crash
        | RefusalKind::Timeout
        | RefusalKind::Memory
        | RefusalKind::Canary
        | RefusalKind::Drift
        | RefusalKind::Checksum => StatusCode::UNPROCESSABLE_ENTITY,
        // Asking again later may succeed.
        RefusalKind::Busy | RefusalKind::HandingOver => StatusCode::SERVICE_UNAVAILABLE,
        RefusalKind::Space => StatusCode::INSUFFICIENT_STORAGE,
        RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What a supervisor serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// In the order of the configuration.
    pub models: Vec<ModelStatus>,
    /// In the order of their ids.
    pub workers: Vec<WorkerStatus>,
    /// How workers and checkers are confined.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// What happened since the start, by the name of the counter.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

/// The confinement of workers and checkers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Whether they are confined.
    pub on: bool,
    /// What this kernel lacks for it, by name.
    pub missing: Vec<String>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self { on: true, missing: Vec::new() }
    }
}

/// A served model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// The served name.
    pub name: String,
    /// Whether it answers requests.
    pub state: ModelState,
    /// What is committed; 0 where nothing serves.
    pub generation: Generation,
    /// The digest of the content; empty, and `null` in JSON, where nothing serves.
    #[serde(with = "null_if_empty")]
    pub version: String,
    /// What it is for; `None` where nothing serves.
    pub task: Option<Task>,
    /// Components of one embedding, or labels; `None` where nothing serves.
    pub dimension: Option<u32>,
    /// How far it is from what was served before, where that was measured.
    pub drift: Option<Drift>,
    /// Versions that failed their probation.
    pub quarantined: Vec<String>,
    /// Where its versions come from.
    pub source: String,
    /// How it is run; `None` where nothing serves, and from a release that did not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<ModelDetails>,
}

/// How a model is run: what its check found out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelDetails {
    /// The model's file within the version; empty for one without a graph.
    pub file: String,
    /// The graph's inputs as they are fed.
    pub inputs: Vec<String>,
    /// What happens from the graph's output to the answer, in order.
    pub pipeline: Vec<String>,
    /// Tokens of the longest text that is not truncated.
    pub max_input_length: u32,
    /// Set where that is fewer than the model's files say.
    pub shortened: Option<Shortened>,
    /// What scores are of, in their order.
    pub labels: Vec<String>,
    /// Names of the prompts that may be put before a text.
    pub prompts: Vec<String>,
    /// Scalar inputs that a request may set.
    pub switches: Vec<SwitchFacts>,
    /// What was assumed because no file says it.
    pub guesses: Vec<Guess>,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// From 0.
    pub id: u64,
    /// Its process; `None`, and 0 in JSON, while there is none.
    #[serde(with = "zero_if_none")]
    pub pid: Option<i32>,
    /// The CPU it is pinned to; `None` where it could not be pinned.
    pub cpu: Option<u16>,
    /// What it is doing.
    pub state: WorkerState,
    /// How often it was restarted.
    pub restarts: u64,
    /// What it has loaded, by model; 0 is nothing.
    pub generations: BTreeMap<String, Generation>,
    /// How it loaded that, by model.
    #[serde(default)]
    pub loads: BTreeMap<String, LoadStatus>,
    /// Its private memory, without the files it maps; `None` while there is no process.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

/// How a worker loaded a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// How long requests had to wait for it; 0 where it was loaded ahead.
    pub load_micros: u64,
    /// Whether it uses the weights that all workers share.
    pub compiled: bool,
    /// Since when it serves the model; `None` where it serves nothing.
    pub seconds_ago: Option<u64>,
}

/// Makes an enum whose values are single words in JSON, and which a newer supervisor may extend.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
            /// A word that this release does not know.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl $name {
            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Unknown => "unknown",
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, word: &&str) -> bool {
                self.as_str() == *word
            }
        }
    };
}

words! {
    /// Whether a model answers requests.
    ModelState {
        /// The first request loads it.
        NotLoaded = "not_loaded",
        /// Nothing serves yet; something is on its way.
        Loading = "loading",
        /// A generation serves.
        Loaded = "loaded",
        /// Accepted requests are answered, new ones are refused.
        Unloading = "unloading",
        /// An update loads it again.
        Unloaded = "unloaded",
    }
}

words! {
    /// What a worker is doing.
    WorkerState {
        /// The process runs and loads its models.
        Starting = "starting",
        /// It waits for work.
        Ready = "ready",
        /// It computes.
        Busy = "busy",
        /// It finishes what it has and gets nothing new.
        Draining = "draining",
        /// It ended because it was told to.
        Stopped = "stopped",
        /// It ended and will be restarted.
        Backoff = "backoff",
        /// It is not restarted any more.
        Failed = "failed",
    }
}

/// An empty text is `null`.
mod null_if_empty {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        Some(text).filter(|text| !text.is_empty()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        Ok(Option::<String>::deserialize(from)?.unwrap_or_default())
    }
}

/// No process is process 0.
mod zero_if_none {
    use super::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde asks for this signature")]
    pub(super) fn serialize<S: Serializer>(
        pid: &Option<i32>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(pid.unwrap_or(0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i32>, D::Error> {
        Ok(Option::<i32>::deserialize(from)?.filter(|pid| *pid != 0))
    }
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
