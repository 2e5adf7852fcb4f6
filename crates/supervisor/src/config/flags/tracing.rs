//! Flags under the heading "Tracing": the export of traces.

use serde::Deserialize;

use crate::config::values::ratio;

/// The settings under "Tracing".
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct TracingFlags {
    /// OpenTelemetry collector to send traces to [default: none]
    ///
    /// Sends the spans of sampled requests and of every update to URL/v1/traces, over HTTP. Nothing is sent without
    /// this flag, OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT. The other OTEL_ variables for
    /// traces apply as well; put credentials into OTEL_EXPORTER_OTLP_HEADERS.
    ///
    /// Example: --otlp-endpoint http://localhost:4318
    #[arg(long, value_name = "URL", env = "ONNXD_OTLP_ENDPOINT", help_heading = "Tracing")]
    pub otlp_endpoint: Option<String>,

    /// Share of requests whose traces are recorded [default: 0.01]
    ///
    /// A number from 0 to 1, for requests without a traceparent header. The caller decides about all others. Replaces
    /// OTEL_TRACES_SAMPLER.
    ///
    /// Example: --trace-ratio 0.1
    #[arg(
        long,
        value_name = "RATIO",
        value_parser = ratio,
        env = "ONNXD_TRACE_RATIO",
        help_heading = "Tracing"
    )]
    pub trace_ratio: Option<f64>,
}

overlay!(TracingFlags: otlp_endpoint trace_ratio);
