//! The flags of `onnxd serve`, which are variables and keys of the configuration file as well. What
//! they are by default and what is wrong with them is for [`Config`](super::Config).

use std::{
    fs,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::ListenAddress;
use onnxd_proto::exit::Failure;

/// What `serve` takes: each flag is also a variable and, with the same name, a key of the file. A
/// setting that is absent says nothing; defaults are for [`Config`](super::Config).
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct ServeArguments {
    /// A TOML file with any of the settings below as keys
    #[arg(long, value_name = "FILE", env = "ONNXD_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// A model to serve, from DIR or file:///DIR, with ?file=PATH or ?variant=NAME where it has
    /// several model files; without NAME= the directory's name is the model's. Several may be given (separated by commas in the variable); the first answers
    /// requests that name none
    #[arg(long, value_name = "[NAME=]URI", env = "ONNXD_MODEL", value_delimiter = ',')]
    pub model: Vec<String>,

    /// Which models are loaded at start: all, none, or these (separated by commas). The others are
    /// loaded by the first request for each [default: all]
    #[arg(long, value_name = "all|none|NAME", env = "ONNXD_PRELOAD", value_delimiter = ',')]
    pub preload: Vec<String>,

    /// Another name by which requests may ask for a model: the one that clients already send, such
    /// as text-embedding-3-small. Several may be given (separated by commas in the variable)
    #[arg(long, value_name = "ALIAS=NAME", env = "ONNXD_MODEL_ALIAS", value_delimiter = ',')]
    pub model_alias: Vec<String>,

    /// Where HTTP is served [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", env = "ONNXD_LISTEN")]
    pub listen: Option<ListenAddress>,

    /// Where gRPC is served, with the API keys and the certificate of HTTP; it is not without this
    #[arg(long, value_name = "ADDRESS", env = "ONNXD_GRPC_LISTEN")]
    pub grpc_listen: Option<ListenAddress>,

    /// A file of API keys, one on each line; everything but health then needs one of them, as
    /// `authorization: Bearer KEY` or `x-api-key: KEY`. Read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "ONNXD_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,

    /// An origin whose web pages may call, as https://example.com, or * for all. Several may be
    /// given (separated by commas in the variable)
    #[arg(long, value_name = "ORIGIN", env = "ONNXD_CORS_ALLOW_ORIGIN", value_delimiter = ',')]
    pub cors_allow_origin: Vec<String>,

    /// The certificate to serve HTTPS with, and after it those that vouch for it, as PEM; needs
    /// --tls-key. Read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "ONNXD_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key, as PEM
    #[arg(long, value_name = "FILE", env = "ONNXD_TLS_KEY")]
    pub tls_key: Option<PathBuf>,

    /// The Unix socket of `onnxd update`, `rollback` and `status`
    /// [default: onnxd-admin.sock in $RUNTIME_DIRECTORY, else in $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH", env = "ONNXD_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,

    /// Also serve the admin interface and Triton's repository API over TCP, at an address of this
    /// machine's loopback interface; needs --admin-token-file
    #[arg(long, value_name = "ADDRESS", env = "ONNXD_ADMIN_LISTEN")]
    pub admin_listen: Option<ListenAddress>,

    /// A file whose first line is the token that --admin-listen asks for, readable by its owner
    /// alone
    #[arg(long, value_name = "FILE", env = "ONNXD_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// Where versions and generations are kept
    /// [default: $STATE_DIRECTORY, else $XDG_STATE_HOME/onnxd]
    #[arg(long, value_name = "DIR", env = "ONNXD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Worker processes [default: one for each CPU this process may use]
    #[arg(long, value_name = "N", env = "ONNXD_WORKERS")]
    pub workers: Option<NonZeroUsize>,

    /// A worker that uses more memory of its own, in MiB, is started again when it has answered
    /// what it has [default: none: no worker is]
    #[arg(long, value_name = "MIB", env = "ONNXD_WORKER_MEMORY")]
    pub worker_memory: Option<NonZeroU64>,

    /// CPUs for a single request while the server is otherwise idle [default: one per worker, at most 4]
    #[arg(long, value_name = "N", env = "ONNXD_IDLE_CPUS")]
    pub idle_cpus: Option<NonZeroUsize>,

    /// The former name of --idle-cpus
    #[arg(long, value_name = "N", env = "ONNXD_ALONE_CPUS", hide = true)]
    pub alone_cpus: Option<NonZeroUsize>,

    /// Inputs of one request to the routes of text-embeddings-inference; those of OpenAI and Cohere
    /// have limits of their own [default: 32]
    #[arg(long, value_name = "N", env = "ONNXD_MAX_CLIENT_BATCH_SIZE")]
    pub max_client_batch_size: Option<NonZeroUsize>,

    /// ONNX Runtime's shared library, 1.24 or newer
    /// [default: libonnxruntime.so beside this executable]
    #[arg(long, value_name = "PATH", env = "ONNXD_ONNXRUNTIME")]
    pub onnxruntime: Option<PathBuf>,

    /// The worker's executable [default: onnxd-worker beside this executable]
    #[arg(long, value_name = "PATH", env = "ONNXD_WORKER_BINARY")]
    pub worker_binary: Option<PathBuf>,

    /// How long accepted requests may take to finish when the supervisor stops, in seconds
    /// [default: 30]
    #[arg(long, value_name = "SECONDS", env = "ONNXD_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<u64>,

    /// How often a worker may end within a minute before it is given up; for all together the limit is
    /// (workers + 1) / 2 times as high [default: 10]
    #[arg(long, value_name = "N", env = "ONNXD_WORKER_RESTARTS")]
    pub worker_restarts: Option<NonZeroU32>,

    /// How long a worker may take from its start until it is ready, and an idle one to answer a
    /// ping, in seconds; then it is killed [default: 120]
    #[arg(long, value_name = "SECONDS", env = "ONNXD_START_TIMEOUT")]
    pub start_timeout: Option<u64>,

    /// How long a stopped worker is waited for before it is replaced, in seconds; whoever attaches a
    /// debugger raises it [default: 2]
    #[arg(long, value_name = "SECONDS", env = "ONNXD_STOPPED_GRACE")]
    pub stopped_grace: Option<u64>,

    /// HTTP and gRPC connections at once; for another the longest idle one is closed
    /// [default: 16384, and no more than descriptors allow]
    #[arg(long, value_name = "N", env = "ONNXD_MAX_CONNECTIONS")]
    pub max_connections: Option<NonZeroUsize>,

    /// How long a successor may take to get ready after SIGUSR2, in seconds [default: 300]
    #[arg(long, value_name = "SECONDS", env = "ONNXD_SUCCESSION_TIMEOUT")]
    pub succession_timeout: Option<u64>,

    /// How long a request may wait and run before it is answered 504, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS", env = "ONNXD_REQUEST_TIMEOUT")]
    pub request_timeout: Option<u64>,

    /// Texts that may wait or be computed at once; more are answered 429 [default: 512]
    #[arg(long, value_name = "N", env = "ONNXD_QUEUE_LIMIT")]
    pub queue_limit: Option<NonZeroUsize>,

    /// How long the check of a candidate may take, in seconds [default: 120]
    #[arg(long, value_name = "SECONDS", env = "ONNXD_CHECK_TIMEOUT")]
    pub check_timeout: Option<u64>,

    /// How much memory the check of a candidate may use, in MiB [default: 4096]
    #[arg(long, value_name = "MIB", env = "ONNXD_CHECK_MEMORY")]
    pub check_memory: Option<u64>,

    /// Refuse candidates whose embeddings of fixed texts have a smaller cosine to the serving
    /// generation's
    #[arg(long, value_name = "COSINE", env = "ONNXD_MIN_COSINE")]
    pub min_cosine: Option<f64>,

    /// Refuse versions about which something has to be guessed, or whose longest text has to be
    /// shortened to fit memory or time; without it both are logged and shown by `onnxd status`
    #[arg(
        long,
        value_name = "true|false",
        env = "ONNXD_STRICT",
        value_parser = boolean,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub strict: Option<bool>,

    /// How long after a commit two failures of workers bring the previous version back, in
    /// seconds [default: 60]
    #[arg(long, value_name = "SECONDS", env = "ONNXD_PROBATION")]
    pub probation: Option<u64>,

    /// Versions of each model that are kept for rollbacks [default: 3]
    #[arg(long, value_name = "N", env = "ONNXD_RETENTION")]
    pub retention: Option<NonZeroUsize>,

    /// Do not confine workers and checkers: a model that takes over one of them can then do what
    /// onnxd can. For kernels that cannot filter system calls
    #[arg(
        long,
        value_name = "true|false",
        env = "ONNXD_NO_SANDBOX",
        value_parser = boolean,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub no_sandbox: Option<bool>,

    /// How the log is written to standard error: text, or a JSON object a line. ONNXD_LOG filters
    /// it, as info or onnxd=debug [default: text]
    #[arg(long, value_name = "text|json", env = onnxd_telemetry::log::FORMAT_VARIABLE)]
    pub log_format: Option<String>,

    /// Check the configuration, say what is wrong, and end
    #[arg(long)]
    #[serde(skip)]
    pub check_config: bool,
}

/// A setting that may be absent.
trait Setting {
    /// This setting, or the other one if it is absent.
    fn or_else_from(self, other: Self) -> Self;
}

impl<T> Setting for Option<T> {
    fn or_else_from(self, other: Self) -> Self {
        self.or(other)
    }
}

impl<T> Setting for Vec<T> {
    fn or_else_from(self, other: Self) -> Self {
        if self.is_empty() { other } else { self }
    }
}

/// Lays settings over others. A setting that is missing in the list does not compile.
macro_rules! overlay {
    ($over:expr, $under:expr; $($setting:ident)+) => {{
        let (over, under): (ServeArguments, ServeArguments) = ($over, $under);
        // These two are flags alone.
        let ServeArguments { config, check_config, $($setting),+ } = over;
        ServeArguments {
            config,
            check_config,
            $($setting: $setting.or_else_from(under.$setting)),+
        }
    }};
}

impl ServeArguments {
    /// Adds what the file of `--config` says to these flags and variables, which win over it.
    ///
    /// # Errors
    /// The file cannot be read, or has unknown keys or wrong values.
    pub(crate) fn with_file(self) -> Result<Self, Failure> {
        match &self.config {
            Some(path) => {
                let file = read_file(path)?;
                Ok(self.over(file))
            }
            None => Ok(self),
        }
    }

    /// These settings, and where they are absent those of the file.
    fn over(self, file: Self) -> Self {
        overlay!(
            self, file;
            model preload model_alias listen grpc_listen api_key_file cors_allow_origin tls_cert
            tls_key admin_socket admin_listen admin_token_file state_dir workers worker_memory
            idle_cpus alone_cpus max_client_batch_size onnxruntime worker_binary drain_timeout
            worker_restarts start_timeout stopped_grace max_connections succession_timeout
            request_timeout queue_limit check_timeout check_memory min_cosine strict probation retention
            no_sandbox log_format
        )
    }
}

/// Reads the value of a flag or variable that is on or off. An empty variable is off, as if it were
/// unset.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "" | "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

fn read_file(path: &Path) -> Result<ServeArguments, Failure> {
    let wrong = |error: &dyn std::fmt::Display| {
        Failure::configuration(format!("--config {}: {error}", path.display()))
    };
    let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
    toml::from_str(&text).map_err(|error| wrong(&error))
}

#[cfg(test)]
#[path = "flags_tests.rs"]
mod tests;
