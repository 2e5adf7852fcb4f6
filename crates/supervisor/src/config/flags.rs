//! Defines the settings of `onnxd serve`: each is a flag, a variable and a key of the configuration file.
//! [`Config`](super::Config) applies defaults and checks values.

use std::{
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::PathBuf,
};

use serde::Deserialize;

use super::{
    ListenAddress, Origins, file,
    values::{boolean, cosine, count, mebibytes, ratio, seconds},
    variables,
};
use onnxd_proto::exit::Failure;

/// The settings of `onnxd serve`, before defaults.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct ServeArguments {
    /// Model to serve, from a directory or another server
    ///
    /// URI is DIR or file:///DIR, or one of https://HOST/PATH/, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX,
    /// hf://ORG/NAME[@REVISION], oci://REGISTRY/REPOSITORY[:TAG] and mlflow://NAME@ALIAS. The name may have a slash, as in
    /// BAAI/bge-m3=DIR, and defaults to the last part of the path. Append ?file=PATH or ?variant=NAME if there are
    /// several model files. Repeat the flag for several models, or separate them with commas or line breaks in the
    /// variable, where \, is a comma of a path. The first model answers requests that name none.
    ///
    /// Example: --model minilm=/srv/models/minilm
    #[arg(long, value_name = "[NAME=]URI", env = "ONNXD_MODEL", help_heading = "Models")]
    pub model: Vec<String>,

    /// Another name that requests may use for a model
    ///
    /// Use it for names that existing clients already send. Repeat the flag for several aliases, or separate them
    /// with commas in the variable.
    ///
    /// Example: --model-alias text-embedding-3-small=minilm
    #[arg(
        long,
        value_name = "ALIAS=NAME",
        env = "ONNXD_MODEL_ALIAS",
        value_delimiter = ',',
        help_heading = "Models"
    )]
    pub model_alias: Vec<String>,

    /// Models to load at start [default: all]
    ///
    /// Pass all, none, or names separated by commas. The first request for any other model loads it and waits until
    /// it is ready. Preload fewer models to start faster, or to save the memory of models that are rarely used.
    ///
    /// Example: --preload minilm,reranker
    #[arg(
        long,
        value_name = "all|none|NAME",
        env = "ONNXD_PRELOAD",
        value_delimiter = ',',
        help_heading = "Models"
    )]
    pub preload: Vec<String>,

    /// Models without which the server does not start
    ///
    /// Pass all, or names separated by commas. By default one model that can be served is enough: the others are
    /// reported, and tried again when their sources change. A required model that cannot be served ends the start with
    /// exit code 78. A source on another server that is away is waited for. Required models are loaded at start.
    ///
    /// Example: --require minilm
    #[arg(
        long,
        value_name = "all|NAME",
        env = "ONNXD_REQUIRE",
        value_delimiter = ',',
        help_heading = "Models"
    )]
    pub require: Vec<String>,

    /// Seconds between checks of a source [default: 60, directories 0]
    ///
    /// A source whose content has changed updates its model; 0 turns this off, the default for directories. Without
    /// NAME=, the value is for all models. A check of unchanged content is one request. After failures the pauses grow
    /// up to 15 minutes.
    ///
    /// Example: --poll minilm=300
    #[arg(
        long,
        value_name = "[NAME=]SECONDS",
        env = "ONNXD_POLL",
        value_delimiter = ',',
        help_heading = "Models"
    )]
    pub poll: Vec<String>,

    /// Seconds a directory must be unchanged [default: 5 if polled, 0]
    ///
    /// An update from a directory that changed later is refused as `incomplete`; a polled directory is checked again.
    /// Does not apply to a directory with a SHA256SUMS, nor at start. Raise it if copies into directories pause.
    ///
    /// Example: --settle 30
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_SETTLE",
        help_heading = "Models"
    )]
    pub settle: Option<u64>,

    /// Address for HTTP [default: 127.0.0.1:8080]
    ///
    /// Takes an IP address or a host name, and a port; port 0 picks a free one. A name is resolved once, at start,
    /// and IPv4 is preferred. The default is reachable from this machine only. Set --api-key-file and --tls-cert
    /// before listening on other interfaces. A socket passed by systemd takes precedence.
    ///
    /// Example: --listen 0.0.0.0:8080
    #[arg(long, value_name = "HOST:PORT", env = "ONNXD_LISTEN", help_heading = "Listening")]
    pub listen: Option<ListenAddress>,

    /// Address for gRPC [default: none, gRPC is off]
    ///
    /// Serves the Open Inference Protocol over gRPC. Uses the API keys and the certificate of HTTP.
    ///
    /// Example: --grpc-listen 127.0.0.1:8081
    #[arg(long, value_name = "HOST:PORT", env = "ONNXD_GRPC_LISTEN", help_heading = "Listening")]
    pub grpc_listen: Option<ListenAddress>,

    /// Unix socket for admin commands [default: onnxd-admin.sock]
    ///
    /// `onnxd update`, `rollback`, `unload` and `status` connect to it. Only the user that runs onnxd may use it. By
    /// default it is onnxd-admin.sock in $RUNTIME_DIRECTORY, or else in $XDG_RUNTIME_DIR.
    ///
    /// Example: --admin-socket /run/onnxd/onnxd-admin.sock
    #[arg(long, value_name = "PATH", env = "ONNXD_ADMIN_SOCKET", help_heading = "Listening")]
    pub admin_socket: Option<PathBuf>,

    /// Loopback address for the admin interface [default: none]
    ///
    /// Also serves the admin interface and Triton's repository API over TCP. The address must be a loopback address.
    /// Needs --admin-token-file.
    ///
    /// Example: --admin-listen 127.0.0.1:8082
    #[arg(long, value_name = "HOST:PORT", env = "ONNXD_ADMIN_LISTEN", help_heading = "Listening")]
    pub admin_listen: Option<ListenAddress>,

    /// File of API keys, one per line [default: none, open to all]
    ///
    /// Every request except health checks must then present a key, as `authorization: Bearer KEY` or `x-api-key: KEY`.
    /// A key has at least 8 characters. Empty lines and lines that start with # are ignored. SIGHUP reloads the file.
    ///
    /// Example: --api-key-file /etc/onnxd/keys
    #[arg(long, value_name = "FILE", env = "ONNXD_API_KEY_FILE", help_heading = "Security")]
    pub api_key_file: Option<PathBuf>,

    /// TLS certificate chain as PEM [default: none, plain HTTP]
    ///
    /// Holds the server's certificate, followed by intermediate certificates. Needs --tls-key. SIGHUP reloads both
    /// files; open connections keep the old certificate.
    ///
    /// Example: --tls-cert /etc/onnxd/cert.pem --tls-key /etc/onnxd/key.pem
    #[arg(long, value_name = "FILE", env = "ONNXD_TLS_CERT", help_heading = "Security")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the TLS certificate as PEM
    ///
    /// Takes an unencrypted PKCS#8, PKCS#1 or SEC1 key. Needs --tls-cert.
    ///
    /// Example: --tls-cert /etc/onnxd/cert.pem --tls-key /etc/onnxd/key.pem
    #[arg(long, value_name = "FILE", env = "ONNXD_TLS_KEY", help_heading = "Security")]
    pub tls_key: Option<PathBuf>,

    /// Web origin that may call from a browser [default: none]
    ///
    /// Pass SCHEME://HOST[:PORT] without a path, or * for every origin. Repeat the flag for several origins, or
    /// separate them with commas in the variable.
    ///
    /// Example: --cors-allow-origin https://example.com
    #[arg(
        long,
        value_name = "ORIGIN",
        env = "ONNXD_CORS_ALLOW_ORIGIN",
        value_delimiter = ',',
        help_heading = "Security"
    )]
    pub cors_allow_origin: Vec<String>,

    /// File with the token that --admin-listen requires
    ///
    /// The first line is the token, at least 16 printable ASCII characters. The file must be accessible to its owner
    /// only (mode 0600).
    ///
    /// Example: --admin-token-file /etc/onnxd/admin-token
    #[arg(long, value_name = "FILE", env = "ONNXD_ADMIN_TOKEN_FILE", help_heading = "Security")]
    pub admin_token_file: Option<PathBuf>,

    /// Public key that must have signed a model [default: none]
    ///
    /// FILE is a public key of minisign, which signs SHA256SUMS, or a P-256 key as PEM, which signs model.sig of OpenSSF
    /// Model Signing. Each file of a version must be signed. Repeat the flag for several models, or for several keys of
    /// a model, of which one is enough. The variable takes a list, as for --model.
    ///
    /// Example: --source-key minilm=/etc/onnxd/minilm.pub
    #[arg(long, value_name = "NAME=FILE", env = "ONNXD_SOURCE_KEY", help_heading = "Security")]
    pub source_key: Vec<String>,

    /// Remote sources that admin calls may name [default: all]
    ///
    /// Limits sources on other servers in `onnxd update --from` and in `source` of Triton's repository API. --model and
    /// directories are not limited. A * stands for any text; before the first slash of the path it matches no slash.
    /// Repeat the flag for several patterns. The variable takes a list, as for --model.
    ///
    /// Example: --allow-source 'hf://my-org/*'
    #[arg(long, value_name = "PATTERN", env = "ONNXD_ALLOW_SOURCE", help_heading = "Security")]
    pub allow_source: Vec<String>,

    /// File with the secret of notifications [default: none, off]
    ///
    /// Then POST /admin/webhook on --admin-listen checks the sources that a signed notification names at once. MLflow,
    /// a Hugging Face hub or a script may send it. The first line is the secret, as for --admin-token-file.
    ///
    /// Example: --webhook-secret-file /etc/onnxd/webhook-secret
    #[arg(long, value_name = "FILE", env = "ONNXD_WEBHOOK_SECRET_FILE", help_heading = "Security")]
    pub webhook_secret_file: Option<PathBuf>,

    /// Run workers and checkers without a sandbox [default: false]
    ///
    /// A model that takes over such a process can then do whatever onnxd can. Use it only on kernels that cannot
    /// filter system calls. --no-sandbox=false overrides the file or the variable.
    ///
    /// Example: --no-sandbox
    #[arg(
        long,
        value_name = "true|false",
        env = "ONNXD_NO_SANDBOX",
        value_parser = boolean,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Security"
    )]
    pub no_sandbox: Option<bool>,

    /// Number of worker processes [default: one per usable CPU]
    ///
    /// Each worker runs inference on one CPU. Use fewer to leave CPUs to other programs. A CPU quota of a control group
    /// (`cpu.max`) lowers the default: a container with 1.5 CPUs gets 2 workers.
    ///
    /// Example: --workers 4
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_WORKERS",
        help_heading = "Workers"
    )]
    pub workers: Option<NonZeroUsize>,

    /// Limit on a worker's private memory, in MiB [default: none]
    ///
    /// A worker above the limit is recycled: it finishes its requests and is restarted. Workers are recycled one at a
    /// time, and each at most once a minute. Set it if the memory of workers keeps growing.
    ///
    /// Example: --worker-memory 2048
    #[arg(
        long,
        value_name = "MIB",
        value_parser = count::<NonZeroU64>,
        env = "ONNXD_WORKER_MEMORY",
        help_heading = "Workers"
    )]
    pub worker_memory: Option<NonZeroU64>,

    /// CPUs for a single request when idle [default: at most 4]
    ///
    /// A single request may use several CPUs while the server is otherwise idle. This shortens its latency and costs
    /// more CPU time. The default is one per worker, at most 4. 1 turns it off.
    ///
    /// Example: --idle-cpus 1
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_IDLE_CPUS",
        help_heading = "Workers"
    )]
    pub idle_cpus: Option<NonZeroUsize>,

    /// The former name of --idle-cpus
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_ALONE_CPUS",
        hide = true,
        help_heading = "Workers"
    )]
    pub alone_cpus: Option<NonZeroUsize>,

    /// Restarts per minute before a worker is given up [default: 10]
    ///
    /// The limit for all workers together is (workers + 1) / 2 times as high. Beyond that, onnxd exits with code 69.
    ///
    /// Example: --worker-restarts 3
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroU32>,
        env = "ONNXD_WORKER_RESTARTS",
        help_heading = "Workers"
    )]
    pub worker_restarts: Option<NonZeroU32>,

    /// Seconds until a starting worker must be ready [default: 120]
    ///
    /// An idle worker has as long to answer a ping. A worker that takes longer is killed and replaced. Raise it if
    /// models load slowly, for example from a network file system.
    ///
    /// Example: --start-timeout 300
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_START_TIMEOUT",
        help_heading = "Workers"
    )]
    pub start_timeout: Option<u64>,

    /// Seconds until a stopped worker is replaced [default: 2]
    ///
    /// Applies to workers that a signal or a debugger has stopped. Raise it to debug a worker.
    ///
    /// Example: --stopped-grace 3600
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_STOPPED_GRACE",
        help_heading = "Workers"
    )]
    pub stopped_grace: Option<u64>,

    /// ONNX Runtime's shared library [default: libonnxruntime.so]
    ///
    /// Needs version 1.24 or newer. The default is libonnxruntime.so in the directory of the onnxd executable.
    ///
    /// Example: --onnxruntime /usr/lib/libonnxruntime.so
    #[arg(long, value_name = "PATH", env = "ONNXD_ONNXRUNTIME", help_heading = "Workers")]
    pub onnxruntime: Option<PathBuf>,

    /// Executable of the workers [default: onnxd-worker]
    ///
    /// Must be from the same build as onnxd. The default is onnxd-worker in the directory of the onnxd executable.
    ///
    /// Example: --worker-binary /usr/lib/onnxd/onnxd-worker
    #[arg(long, value_name = "PATH", env = "ONNXD_WORKER_BINARY", help_heading = "Workers")]
    pub worker_binary: Option<PathBuf>,

    /// Executable of the fetcher [default: onnxd-fetch]
    ///
    /// Must be from the same build as onnxd. The default is onnxd-fetch in the directory of the onnxd executable. Only
    /// sources on other servers need it.
    ///
    /// Example: --fetch-binary /usr/lib/onnxd/onnxd-fetch
    #[arg(long, value_name = "PATH", env = "ONNXD_FETCH_BINARY", help_heading = "Updates")]
    pub fetch_binary: Option<PathBuf>,

    /// Seconds that checking a candidate may take [default: 120]
    ///
    /// A candidate is a version that an update brings. One that takes longer is refused. Raise it for large models.
    ///
    /// Example: --check-timeout 300
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_CHECK_TIMEOUT",
        help_heading = "Updates"
    )]
    pub check_timeout: Option<u64>,

    /// Memory for checking a candidate, in MiB [default: 4096]
    ///
    /// The default is at most three quarters of the memory of the machine or container.
    /// It also limits the longest text that a model accepts. Raise it if a candidate is refused with the kind
    /// `memory`, or if `onnxd status` shows that this setting shortened the longest text.
    ///
    /// Example: --check-memory 8192
    #[arg(
        long,
        value_name = "MIB",
        value_parser = mebibytes,
        env = "ONNXD_CHECK_MEMORY",
        help_heading = "Updates"
    )]
    pub check_memory: Option<u64>,

    /// Minimum cosine between old and new embeddings [default: none]
    ///
    /// Refuses a candidate whose embeddings of fixed texts differ more from those of the serving version. Without it
    /// drift is only reported. Set it if stored vectors must remain comparable.
    ///
    /// Example: --min-cosine 0.98
    #[arg(
        long,
        value_name = "COSINE",
        value_parser = cosine,
        env = "ONNXD_MIN_COSINE",
        help_heading = "Updates"
    )]
    pub min_cosine: Option<f64>,

    /// Refuse models that need a guess [default: false]
    ///
    /// Also refuses models whose longest text must be shortened to fit memory or time. Without it onnxd serves them,
    /// logs what it assumed, and shows it in `onnxd status`. --strict=false overrides the file or the variable.
    ///
    /// Example: --strict
    #[arg(
        long,
        value_name = "true|false",
        env = "ONNXD_STRICT",
        value_parser = boolean,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Updates"
    )]
    pub strict: Option<bool>,

    /// Seconds after a commit in which failures undo it [default: 60]
    ///
    /// If workers fail twice within this time of a commit, onnxd restores the previous version and quarantines the new
    /// one. 0 turns automatic rollback off.
    ///
    /// Example: --probation 300
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        env = "ONNXD_PROBATION",
        help_heading = "Updates"
    )]
    pub probation: Option<u64>,

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
    /// For requests and answers. When it is used up, further large requests are answered 429. The default is at most an eighth of the memory of
    /// the machine or container.
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
    /// Between two requests. It must be longer than the idle time of a proxy in front, such as 600 for
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
    /// Meanwhile readiness checks answer 503, so that load balancers send requests elsewhere. Use it where they learn of
    /// a stop late, as in Kubernetes. It adds to --drain-timeout. A second signal ends it.
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

    /// Directory for versions and records [default: $STATE_DIRECTORY]
    ///
    /// Holds the versions of every model and the record of its generations. Only one server may use it at a time.
    /// Without $STATE_DIRECTORY, which systemd sets, the default is $XDG_STATE_HOME/onnxd or ~/.local/state/onnxd.
    ///
    /// Example: --state-dir /var/lib/onnxd
    #[arg(long, value_name = "DIR", env = "ONNXD_STATE_DIR", help_heading = "State")]
    pub state_dir: Option<PathBuf>,

    /// Versions of each model kept for rollback [default: 3]
    ///
    /// Each version takes as much disk space as its files and its compiled form.
    ///
    /// Example: --retention 5
    #[arg(
        long,
        value_name = "N",
        value_parser = count::<NonZeroUsize>,
        env = "ONNXD_RETENTION",
        help_heading = "State"
    )]
    pub retention: Option<NonZeroUsize>,

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

    /// TOML file with any of these settings as keys
    ///
    /// A key is the flag's name without the leading dashes, for example `workers = 4`. Flags win over variables, variables win
    /// over the file.
    ///
    /// Example: --config /etc/onnxd.toml
    #[arg(long, value_name = "FILE", env = "ONNXD_CONFIG", help_heading = "Other")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Check the configuration and exit
    ///
    /// Exits with 0 if a server could start. Otherwise prints all errors and exits with 78, or with 64 if the command
    /// line is invalid. Tries addresses, directories, ONNX Runtime, and models in directories that a start would check.
    /// Contacts no other server, and leaves nothing behind. What a server with the same state directory uses is only
    /// reported.
    ///
    /// Example: --config /etc/onnxd.toml --check-config
    #[arg(long, help_heading = "Other")]
    #[serde(skip)]
    pub check_config: bool,
}

/// A setting that may be absent.
trait Setting {
    /// Returns this setting, or `other` if it is absent.
    fn or_from(self, other: Self) -> Self;
}

impl<T> Setting for Option<T> {
    fn or_from(self, other: Self) -> Self {
        self.or(other)
    }
}

impl<T> Setting for Vec<T> {
    fn or_from(self, other: Self) -> Self {
        if self.is_empty() { other } else { self }
    }
}

/// Merges two sets of settings, the first of which wins. Does not compile if the list lacks a setting.
macro_rules! overlay {
    ($over:expr, $under:expr; $($setting:ident)+) => {{
        let (over, under): (ServeArguments, ServeArguments) = ($over, $under);
        // These two are flags only.
        let ServeArguments { config, check_config, $($setting),+ } = over;
        ServeArguments {
            config,
            check_config,
            $($setting: $setting.or_from(under.$setting)),+
        }
    }};
}

impl ServeArguments {
    /// Returns whether a flag is also a key of the file.
    pub(crate) fn is_key(flag: &str) -> bool {
        !file::FLAGS_ONLY.contains(&flag)
    }

    /// Fills in settings from the file of `--config`. Flags and variables win.
    ///
    /// # Errors
    /// The file cannot be read, or has an unknown key or a wrong value.
    pub(crate) fn with_file(mut self, origins: &mut Origins) -> Result<Self, Failure> {
        // Flags may hold commas, since they can be repeated.
        for (flag, list) in [
            ("model", &mut self.model),
            ("source-key", &mut self.source_key),
            ("allow-source", &mut self.allow_source),
        ] {
            if origins.is_variable(flag) {
                *list = list.iter().flat_map(|text| variables::split(text)).collect();
            }
        }
        let settings = match &self.config {
            Some(path) => {
                let file = file::read(path, origins)?;
                self.over(file)
            }
            None => self,
        };
        origins.add_defaults();
        Ok(settings)
    }

    /// Returns these settings, with those of the file where they are absent.
    fn over(self, file: Self) -> Self {
        overlay!(
            self, file;
            model poll preload require model_alias listen grpc_listen api_key_file cors_allow_origin tls_cert
            tls_key admin_socket admin_listen admin_token_file state_dir body_memory workers worker_memory
            idle_cpus alone_cpus max_client_batch_size onnxruntime worker_binary fetch_binary idle_timeout shutdown_delay
            drain_timeout
            worker_restarts start_timeout stopped_grace max_connections succession_timeout
            request_timeout queue_limit check_timeout check_memory min_cosine strict probation retention
            otlp_endpoint trace_ratio no_sandbox log_format access_log trusted_proxy settle source_key allow_source webhook_secret_file
        )
    }
}

#[cfg(test)]
#[path = "flags_tests.rs"]
mod tests;
