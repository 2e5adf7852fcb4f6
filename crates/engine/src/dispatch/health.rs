//! Whether there are workers to answer: for readiness, systemd, gRPC's health service, and the end
//! of the supervisor. Published by the [actor](crate::dispatch::actor).

use onnxd_proto::exit::ExitStatus;

/// How the workers are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Workers that answer requests.
    pub serving: usize,
    /// Whether every worker has been ready once: from then on the server is ready as long as one
    /// serves.
    pub warmed_up: bool,
    /// Set when no worker is left.
    pub fatal: Option<(ExitStatus, String)>,
    /// All workers have ended as they were told to.
    pub stopped: bool,
}

impl Health {
    /// Whether requests are answered.
    pub fn is_ready(&self) -> bool {
        self.warmed_up && self.serving > 0
    }
}
