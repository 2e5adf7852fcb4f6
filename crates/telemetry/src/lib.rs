//! Telemetry of both executables: logs and metrics. Imports nothing of onnxd but its domain records.
//!
//! - [`log`]: how both executables set up their log.
//! - [`stderr`]: a log sink that never blocks.
//! - [`trace`]: the trace context of a request.
//! - `metrics` (feature `metrics`): counters and histograms, printed in the Prometheus format.

pub mod log;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod stderr;
pub mod trace;
