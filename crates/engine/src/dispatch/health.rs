//! Whether workers are available to answer. Read by readiness checks, systemd, gRPC's health
//! service and the shutdown logic. Published by the [actor](crate::dispatch::actor).

use onnxd_proto::exit::ExitStatus;

/// The combined state of the workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Workers that answer requests.
    pub serving: usize,
    /// Whether every worker has been ready once. From then on, one serving worker is enough for
    /// readiness.
    pub warmed_up: bool,
    /// Set when no worker is left.
    pub fatal: Option<(ExitStatus, String)>,
    /// All workers have stopped as requested.
    pub stopped: bool,
}

impl Health {
    /// Returns whether the server answers requests.
    pub fn is_ready(&self) -> bool {
        self.warmed_up && self.serving > 0
    }
}
