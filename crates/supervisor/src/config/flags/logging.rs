//! Flags under the heading "Logging": the log and the access log.

use serde::Deserialize;

/// The settings under "Logging".
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct LoggingFlags {
    /// Format of the log on standard error [default: text]
    ///
    /// json writes one object per line, for workers as well. ONNXD_LOG filters the log, for example info or
    /// onnxd=debug.
    ///
    /// Example: --log-format json
    #[arg(
        long,
        value_name = "text|json",
        env = onnxd_telemetry::log::FORMAT_VARIABLE,
        help_heading = "Logging"
    )]
    pub log_format: Option<String>,

    /// Requests to log: off, errors, sampled=RATIO, all [default: off]
    ///
    /// Writes one line per request with target onnxd::access: route, model, status, sizes, times, client and ids, but
    /// neither path nor query. sampled=RATIO logs all errors and this share of all other requests. Off by default, as
    /// client addresses are personal data, and an overloaded server should not spend its time on a line per refusal.
    ///
    /// Example: --access-log sampled=0.01
    #[arg(long, value_name = "MODE", env = "ONNXD_ACCESS_LOG", help_heading = "Logging")]
    pub access_log: Option<String>,

    /// Proxy whose word counts for client addresses [default: none]
    ///
    /// If a request comes from such an address or network, the client in the access log is the last address in
    /// x-forwarded-for, or else in forwarded, that is not a trusted proxy. Repeat the flag for several networks, or
    /// separate them with commas in the variable.
    ///
    /// Example: --trusted-proxy 10.0.0.0/8
    #[arg(
        long,
        value_name = "CIDR",
        env = "ONNXD_TRUSTED_PROXY",
        value_delimiter = ',',
        help_heading = "Logging"
    )]
    pub trusted_proxy: Vec<String>,
}

overlay!(LoggingFlags: log_format access_log trusted_proxy);
