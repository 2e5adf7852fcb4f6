//! Whether workers are available to answer. Read by readiness checks, systemd, gRPC's health
//! service and the shutdown logic. Published by the [actor](crate::dispatch::actor).

use std::collections::BTreeMap;

use onnxd_proto::{control_page::Slot, exit::ExitStatus};

/// The combined state of the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Workers that answer requests.
    pub serving: usize,
    /// Whether every worker has been ready once. From then on, one serving worker is enough for
    /// readiness.
    pub warmed_up: bool,
    /// The models that no serving worker can answer for, and why one of them could not load it.
    pub unloadable: BTreeMap<Slot, String>,
    /// Set when no worker is left.
    pub fatal: Option<(ExitStatus, String)>,
    /// All workers have stopped as requested.
    pub stopped: bool,
}

impl Health {
    /// Returns whether workers answer requests. [`Health::unloadable`] has the models for which they do not.
    pub fn is_ready(&self) -> bool {
        self.warmed_up && self.serving > 0
    }
}
