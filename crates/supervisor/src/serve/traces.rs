//! Starts the export of traces. Called by [`start`](super::start).

use std::sync::Arc;

use onnxd_engine::models::sources::fetcher::Fetcher;
use onnxd_proto::exit::Failure;
use onnxd_telemetry::{metrics::Metrics, tracer::Tracer};

use crate::{config::Config, process::exporter::Exporter};

/// Starts to export traces, if that is configured.
pub(super) fn start(
    config: &Config,
    fetcher: Option<Fetcher>,
    metrics: &Arc<Metrics>,
) -> Result<(Tracer, Option<Exporter>), Failure> {
    let (Some(otlp), Some(fetcher)) = (&config.otlp, fetcher) else {
        return Ok((Tracer::default(), None));
    };
    let (tracer, traces) = Tracer::new(otlp.sampler, Arc::clone(metrics));
    let (endpoint, metrics) = (otlp.endpoint.clone(), Arc::clone(metrics));
    let exporter = Exporter::start(fetcher, endpoint, (tracer.clone(), traces), metrics)
        .map_err(|error| Failure::internal(format!("cannot start a thread: {error}")))?;
    // A query may be secret.
    let endpoint = otlp.endpoint.split('?').next().unwrap_or_default();
    tracing::info!(endpoint, "exporting traces");
    Ok((tracer, Some(exporter)))
}
