//! JSON types of the admin interface. Fields are added, never renamed or removed: a client works with
//! a supervisor of the same, the previous or the next release.
//!
//! | call | request | response |
//! |---|---|---|
//! | `GET /admin/status` | | [`Status`] |
//! | `POST /admin/models/MODEL/update` | [`UpdateCall`] | one line per [`Step`], then [`Outcome`] |
//! | `POST /admin/models/MODEL/rollback` | [`RollbackCall`] | the same |
//! | `POST /admin/models/MODEL/unload` | | [`Unloaded`] |
//! | `POST /admin/models/MODEL/cancel` | | [`Cancelled`] |
//! | `GET /admin/log` | | [`LogSettings`] |
//! | `POST /admin/log` | [`LogCall`] | [`LogSettings`] |
//!
//! In a path, a slash of the model's name is written as `%2F`.
//!
//! A refusal is an [`ErrorBody`] with the HTTP status of [`http_status`]. Once a step has been sent,
//! the status is 200 and the error is the last line.

mod forms;

use std::{collections::BTreeMap, fmt};

use hyper::StatusCode;
pub use onnxd_proto::domain::{
    Drift, Guess, IndexStatus, Load, Outcome, Refusal, RefusalKind, Shortened, Step, SwitchFacts,
    Task, Unloaded,
};
use onnxd_proto::generation::Generation;
use serde::{Deserialize, Serialize};

/// Content type of every request body, and of responses that are one JSON document.
pub const JSON: &str = "application/json";
/// Content type of responses with one JSON document per line.
pub const JSON_LINES: &str = "application/x-ndjson";

/// Path of the status call.
pub const STATUS_PATH: &str = "/admin/status";
/// Path of the calls about the log.
pub const LOG_PATH: &str = "/admin/log";

/// An action on a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Replace the model's version.
    Update,
    /// Return to an earlier version.
    Rollback,
    /// Release the model's memory.
    Unload,
    /// End the model's running and waiting updates.
    Cancel,
}

impl Verb {
    /// Returns the last part of the path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Rollback => "rollback",
            Self::Unload => "unload",
            Self::Cancel => "cancel",
        }
    }

    /// Returns the path of the call for a model. Pass `{model}` for the router's template.
    pub fn path(self, model: &str) -> String {
        // Served names need no other escaping.
        format!("/admin/models/{}/{}", model.replace('/', "%2F"), self.as_str())
    }
}

/// Body of an update call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateCall {
    /// URI of the new version, such as the absolute path of a directory. Defaults to the model's
    /// configured source.
    pub from: Option<String>,
    /// When workers load the version.
    pub load: Load,
    /// Accept a version that failed an earlier probation, or lacks files of the serving version.
    pub force: bool,
    /// Accept embeddings with a different dimension.
    pub allow_dimension_change: bool,
    /// Keep the vectors of the model's collections, because the new version embeds into the same space.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reuse_index: bool,
}

/// Body of a rollback call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RollbackCall {
    /// Generation whose version to serve again. Defaults to the newest with a different version.
    pub to: Option<Generation>,
}

/// Body of a call that changes the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogCall {
    /// The new filter: a level, or `TARGET=LEVEL`, several separated by commas.
    pub filter: String,
}

/// How the supervisor and its workers log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    /// The filter in effect.
    pub filter: String,
    /// `text` or `json`.
    pub format: String,
}

/// The response to a cancel call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// The model.
    pub model: String,
    /// The generation that keeps serving; 0 if none.
    pub generation: Generation,
    /// How many calls were ended.
    pub updates: usize,
}

/// Body of a refusal, and the last line of a stream that ends in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Why nothing was done.
    pub error: Refusal,
}

/// Returns the HTTP status of a refusal; `kind` in the body is more specific.
pub fn http_status(kind: RefusalKind) -> StatusCode {
    match kind {
        RefusalKind::Malformed => StatusCode::BAD_REQUEST,
        RefusalKind::NotFound => StatusCode::NOT_FOUND,
        // The request conflicts with a concurrent or earlier event.
        RefusalKind::Superseded | RefusalKind::Cancelled | RefusalKind::Quarantined => {
            StatusCode::CONFLICT
        }
        // The candidate cannot serve; retrying does not help.
        RefusalKind::Contract
        | RefusalKind::Load
        | RefusalKind::Crash
        | RefusalKind::Timeout
        | RefusalKind::Memory
        | RefusalKind::Canary
        | RefusalKind::Drift
        | RefusalKind::Checksum
        | RefusalKind::Signature => StatusCode::UNPROCESSABLE_ENTITY,
        // The source's server is at fault.
        RefusalKind::Unreachable | RefusalKind::Unauthorized => StatusCode::BAD_GATEWAY,
        RefusalKind::Forbidden => StatusCode::FORBIDDEN,
        // A later retry may succeed.
        RefusalKind::Incomplete | RefusalKind::Busy | RefusalKind::HandingOver => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        RefusalKind::Space => StatusCode::INSUFFICIENT_STORAGE,
        RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// State of a supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What the server does before it serves, for example which model it checks; `None` once it has
    /// started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting: Option<String>,
    /// Whether the server stops soon. It still answers requests, but is not ready.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// Models in configuration order.
    pub models: Vec<ModelStatus>,
    /// Workers by id.
    pub workers: Vec<WorkerStatus>,
    /// Sandbox of workers and checkers.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// Counts of events since the start, by counter name.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

/// Sandbox of workers and checkers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Whether the sandbox is on.
    pub on: bool,
    /// Names of sandbox features that the kernel lacks.
    pub missing: Vec<String>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self { on: true, missing: Vec::new() }
    }
}

/// State of a served model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// The served name.
    pub name: String,
    /// Whether the model answers requests.
    pub state: ModelState,
    /// Committed generation; 0 if none.
    pub generation: Generation,
    /// Digest of the content; empty (`null` in JSON) if nothing is committed.
    #[serde(with = "forms::null_if_empty")]
    pub version: String,
    /// Task of the model; `None` if nothing is committed.
    pub task: Option<Task>,
    /// Components of an embedding, or number of labels; `None` if nothing is committed.
    pub dimension: Option<u32>,
    /// Drift from the previously served version, if measured.
    pub drift: Option<Drift>,
    /// Versions that failed their probation.
    pub quarantined: Vec<String>,
    /// Configured source.
    pub source: String,
    /// Why the model does not serve, if it could not be loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Generations whose records are damaged, so that they cannot serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged_records: Vec<Generation>,
    /// How far an update has embedded the documents of its collections; `None` if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexing: Option<IndexStatus>,
    /// What is known about its source; `None` if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_state: Option<SourceStatus>,
    /// How the model runs; `None` if nothing is committed, or from an earlier release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<ModelDetails>,
}

/// What is known about a source. Times are seconds since 1970-01-01.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceStatus {
    /// Identity of the content that was seen last.
    pub snapshot: Option<String>,
    /// When a watched source answered last.
    pub checked: Option<u64>,
    /// When its content was last seen to change.
    pub changed: Option<u64>,
    /// Why the last check or update failed, until one succeeds.
    pub error: Option<String>,
    /// Seconds between checks; `None` if the source is not watched.
    pub interval_seconds: Option<u64>,
    /// Checks since the start.
    pub checks: u64,
    /// Checks that failed.
    pub failures: u64,
}

/// How a model runs, as found by the checker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelDetails {
    /// The model file within the version; empty if the model has no graph.
    pub file: String,
    /// The graph's inputs as they are fed.
    pub inputs: Vec<String>,
    /// Steps from the graph's output to the result, in order.
    pub pipeline: Vec<String>,
    /// Tokens of the longest text that is not truncated.
    pub max_input_length: u32,
    /// Set if that is less than the model's files declare.
    pub shortened: Option<Shortened>,
    /// Labels of the scores, in order.
    pub labels: Vec<String>,
    /// Names of the model's prompts.
    pub prompts: Vec<String>,
    /// Scalar inputs that a request may set.
    pub switches: Vec<SwitchFacts>,
    /// Assumptions about settings that no file states.
    pub guesses: Vec<Guess>,
}

/// State of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Index, starting from 0.
    pub id: u64,
    /// Process id; `None` (0 in JSON) while no process runs.
    #[serde(with = "forms::zero_if_none")]
    pub pid: Option<i32>,
    /// CPU that the worker is pinned to; `None` if pinning failed.
    pub cpu: Option<u16>,
    /// Current activity.
    pub state: WorkerState,
    /// Number of restarts.
    pub restarts: u64,
    /// Loaded generations by model; 0 means none.
    pub generations: BTreeMap<String, Generation>,
    /// How each model was loaded.
    #[serde(default)]
    pub loads: BTreeMap<String, LoadStatus>,
    /// Private memory, without mapped files; `None` while no process runs.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
}

/// How a worker loaded a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// Time that requests had to wait for the load; 0 if the version was loaded ahead.
    pub load_micros: u64,
    /// Whether the worker uses the compiled form, whose weights all workers share.
    pub compiled: bool,
    /// Seconds since it began to serve this generation; `None` if it serves nothing.
    pub seconds_ago: Option<u64>,
}

/// Defines an enum that is one word in JSON and that a newer supervisor may extend.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)+
            /// A value that this release does not know.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl $name {
            /// Returns the value's name.
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
        /// The first request will load it.
        NotLoaded = "not_loaded",
        /// It could not be loaded, and nothing serves.
        Failed = "failed",
        /// Nothing is committed yet; the first version is loading.
        Loading = "loading",
        /// A generation serves.
        Loaded = "loaded",
        /// Accepted requests are answered; new ones are refused.
        Unloading = "unloading",
        /// An update will load it again.
        Unloaded = "unloaded",
    }
}

words! {
    /// Activity of a worker.
    WorkerState {
        /// The process is running and loading its models.
        Starting = "starting",
        /// Idle, waiting for work.
        Ready = "ready",
        /// Running a dispatch group.
        Busy = "busy",
        /// Finishing its work; gets nothing new.
        Draining = "draining",
        /// Exited on request.
        Stopped = "stopped",
        /// Exited, waiting to be restarted.
        Backoff = "backoff",
        /// Given up, and no longer restarted.
        Failed = "failed",
    }
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
