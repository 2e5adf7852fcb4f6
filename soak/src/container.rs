//! With `--container`, the server has the limits of a small container: the kernel must kill nothing, and
//! liveness probes must be answered in time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use e2e::{
    client::Client,
    control_group::{ControlGroup, Limits},
};
use tokio::time::{self, Instant};

use crate::world::World;

/// The limits that docs/containers.md recommends for small models.
const LIMITS: Limits = Limits { memory_bytes: 512 << 20, cpu_percent: Some(150) };
/// Interval and timeout of probes, as in Kubernetes.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The control group of a server, and what its probes have found.
#[derive(Debug)]
pub(crate) struct Container(ControlGroup);

impl Container {
    /// # Errors
    /// This machine allows no control groups.
    pub(crate) fn create() -> Result<Self, String> {
        ControlGroup::create(LIMITS).map(Self)
    }

    pub(crate) fn group(&self) -> &ControlGroup {
        &self.0
    }

    /// Describes its memory.
    pub(crate) fn memory(&self) -> String {
        let peak = self.0.peak_bytes().unwrap_or_default() >> 20;
        let (limit, kills) = (LIMITS.memory_bytes >> 20, self.0.out_of_memory_kills());
        format!("peak {peak} of {limit} MiB, {kills} killed for memory")
    }
}

/// Probes the server each second until the run stops. Returns the longest time to an answer.
pub(crate) async fn probe(world: Arc<World>) -> Duration {
    let (address, mut longest) = (world.server.address(), Duration::ZERO);
    while !world.stops() {
        let start = Instant::now();
        match time::timeout(PROBE_TIMEOUT, live(address)).await {
            Ok(Ok(200)) => {}
            Ok(other) => world.violated(&format!("a liveness probe failed: {other:?}")),
            Err(_) => world.violated(&format!("a liveness probe took more than {PROBE_TIMEOUT:?}")),
        }
        longest = longest.max(start.elapsed());
        time::sleep_until(start + PROBE_INTERVAL).await;
    }
    if let Some(container) = &world.container {
        let kills = container.group().out_of_memory_kills();
        if kills > 0 {
            world.violated(&format!("the kernel killed {kills} processes for memory"));
        }
    }
    longest
}

/// Sends one probe on a new connection and returns the status.
async fn live(address: SocketAddr) -> Result<u16, String> {
    let mut client = Client::connect(address).await.map_err(|error| error.to_string())?;
    let answer = client.get("/v2/health/live").await.map_err(|error| error.to_string())?;
    Ok(answer.status)
}
