//! A worker as others see it: `onnxd status`, the metrics and the readiness of models.

use std::time::Instant;

use onnxd_proto::generation::Generation;
use serde::Serialize;

use crate::pool::state::State;

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
