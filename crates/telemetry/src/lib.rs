//! Logs and metrics of all executables. Depends on no other crate of onnxd except its domain
//! records.
//!
//! - [`log`]: log setup of all executables. [`log_limit`]: limits lines that others can cause.
//! - [`stderr`]: a log sink that never blocks.
//! - [`trace`]: the request id and the trace context of a request.
//! - `tracer` (feature `metrics`): records the spans of sampled requests and of updates.
//! - `metrics` (feature `metrics`): counters and histograms in the Prometheus format.

pub mod log;
pub mod log_limit;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod stderr;
pub mod trace;
#[cfg(feature = "metrics")]
pub mod tracer;
