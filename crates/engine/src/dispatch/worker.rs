//! A worker as seen from outside: by `onnxd status`, the metrics and model readiness. Built by the
//! [session](crate::dispatch::policy::session).

use std::time::Instant;

use onnxd_proto::generation::Generation;
use serde::Serialize;

/// The states of a worker, under the names used in logs, status and documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The process is running and loading its models.
    Starting,
    /// Waiting for work.
    Ready,
    /// Computing.
    Busy,
    /// Finishing its current work; receives nothing new.
    Draining,
    /// Exited on request.
    Stopped,
    /// Exited and waiting to be restarted.
    Backoff,
    /// Gave up restarting.
    Failed,
}

impl State {
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Ready,
        Self::Busy,
        Self::Draining,
        Self::Stopped,
        Self::Backoff,
        Self::Failed,
    ];
}

/// A worker's load of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The generation that it serves; 0 means none.
    pub generation: Generation,
    /// Load time in microseconds if the worker loaded it when switching to it; 0 if it was loaded
    /// ahead.
    pub micros: u64,
    /// Whether it uses the weights shared by all workers.
    pub compiled: bool,
    /// When it started to serve this generation.
    pub at: Option<Instant>,
}

/// A worker as `onnxd status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// From 0.
    pub id: usize,
    /// 0 if no process is running.
    pub pid: u32,
    /// The CPU it is pinned to; `None` if pinning failed.
    pub cpu: Option<u16>,
    pub state: State,
    /// The generations it serves, by slot.
    #[serde(skip)]
    pub loads: Vec<Load>,
    /// How many times it was restarted.
    pub restarts: u64,
    /// Items sent to it and not answered yet.
    #[serde(skip)]
    pub items: usize,
}
