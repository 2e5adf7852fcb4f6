//! A worker as others see it: `onnxd status`, the metrics and the readiness of models. Plain data;
//! the [session](crate::dispatch::policy::session) makes it.

use std::time::Instant;

use onnxd_proto::generation::Generation;
use serde::Serialize;

/// The states of a worker, with the names that logs, status and documents use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The process runs and loads its models.
    Starting,
    /// It waits for work.
    Ready,
    /// It computes.
    Busy,
    /// It finishes what it has and gets nothing new.
    Draining,
    /// It has ended because it was told to.
    Stopped,
    /// It has ended and will be started again.
    Backoff,
    /// It is given up.
    Failed,
}

impl State {
    /// All of them.
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

/// What a worker has loaded of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// What it serves; 0 is none.
    pub generation: Generation,
    /// How long loading took when the worker did it by itself; 0 where it had been loaded ahead.
    pub micros: u64,
    /// Whether the weights are those that all workers share.
    pub compiled: bool,
    /// When it began to serve this generation.
    pub at: Option<Instant>,
}

/// A worker as `onnxd status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// From 0.
    pub id: usize,
    /// 0 where no process runs.
    pub pid: u32,
    /// The CPU it is pinned to; `None` where it could not be.
    pub cpu: Option<u16>,
    /// See [`State`].
    pub state: State,
    /// What it serves, by slot.
    #[serde(skip)]
    pub loads: Vec<Load>,
    /// How often it was started again.
    pub restarts: u64,
    /// Items that it has and has not answered.
    #[serde(skip)]
    pub items: usize,
}
