//! Flags under the heading "Limits and timeouts": limits of requests, connections and stops.

use std::num::{NonZeroU64, NonZeroUsize};

use serde::Deserialize;

use crate::config::values::{count, seconds};

/// The settings under "Limits and timeouts".
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct LimitFlags {
    /// Seconds until a request is answered 504 [default: 30]
    ///
    /// Counts from the end of the request's body, and includes waiting and inference. A client may ask for less with
    /// `x-request-timeout-ms`.
    ///
    /// Example: --request-timeout 60
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_REQUEST_TIMEOUT",
        help_heading = "Limits and timeouts"
    )]
    pub request_timeout: Option<u64>,

    /// Memory for large bodies, in MiB [default: 512]
    ///
    /// For requests and answers. When it is used up, further large requests are answered 429. A
    /// request that needs more than all of it is answered 413. The default is at most an eighth of
    /// the memory of the machine or container.
    ///
    /// Example: --body-memory 128
    #[arg(
        long,
        value_name = "MIB",
        value_parser = count::<NonZeroU64>,
        env = "ONNXD_BODY_MEMORY",
        help_heading = "Limits and timeouts"
    )]
    pub body_memory: Option<NonZeroU64>,

    /// Inputs of one model that may wait or run [default: 512]
    ///
    /// Further requests are answered 429 with retry-after. At least 32. A larger limit absorbs longer bursts, and
    /// requests wait longer.
    ///
    /// Example: --queue-limit 1024
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_QUEUE_LIMIT",
        help_heading = "Limits and timeouts"
    )]
    pub queue_limit: Option<NonZeroUsize>,

    /// Maximum inputs per request on TEI routes [default: 32]
    ///
    /// TEI is text-embeddings-inference. The routes of OpenAI and Cohere have fixed limits.
    ///
    /// Example: --max-client-batch-size 64
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_MAX_CLIENT_BATCH_SIZE",
        help_heading = "Limits and timeouts"
    )]
    pub max_client_batch_size: Option<NonZeroUsize>,

    /// Maximum open HTTP and gRPC connections [default: 16384]
    ///
    /// At the limit, a new connection closes the one that has been idle longest. onnxd raises its limit on file
    /// descriptors as far as permitted, and accepts fewer connections if that is not enough.
    ///
    /// Example: --max-connections 1000
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_MAX_CONNECTIONS",
        help_heading = "Limits and timeouts"
    )]
    pub max_connections: Option<NonZeroUsize>,

    /// Seconds until an idle connection is closed [default: 75]
    ///
    /// Between two requests; at least 1. It must be longer than the idle time of a proxy in front, such as 600 for
    /// Google's load balancers, or the proxy sends a request into a connection that is being closed.
    ///
    /// Example: --idle-timeout 620
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_IDLE_TIMEOUT",
        help_heading = "Limits and timeouts"
    )]
    pub idle_timeout: Option<u64>,

    /// Seconds to go on accepting after SIGTERM [default: 0]
    ///
    /// Meanwhile readiness checks answer 503, so that load balancers send requests elsewhere. Use
    /// it where they learn of a stop late, as in Kubernetes. It adds to --drain-timeout. A second
    /// signal ends it.
    ///
    /// Example: --shutdown-delay 10
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_SHUTDOWN_DELAY",
        help_heading = "Limits and timeouts"
    )]
    pub shutdown_delay: Option<u64>,

    /// Seconds for accepted requests when stopping [default: 30]
    ///
    /// After SIGTERM or SIGINT onnxd finishes accepted requests for this long. Keep it below the time that systemd or
    /// the container runtime waits before SIGKILL.
    ///
    /// Example: --drain-timeout 10
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_DRAIN_TIMEOUT",
        help_heading = "Limits and timeouts"
    )]
    pub drain_timeout: Option<u64>,

    /// Seconds until a successor must be ready [default: 300]
    ///
    /// SIGUSR2 starts a successor, the process that replaces this one. If it takes longer it is killed, and this
    /// process continues to serve.
    ///
    /// Example: --succession-timeout 600
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_SUCCESSION_TIMEOUT",
        help_heading = "Limits and timeouts"
    )]
    pub succession_timeout: Option<u64>,
}

overlay!(LimitFlags: request_timeout body_memory queue_limit max_client_batch_size max_connections idle_timeout shutdown_delay drain_timeout succession_timeout);
