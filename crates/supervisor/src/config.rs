//! The configuration of `onnxd serve`: flags, `ONNXD_*` variables and a TOML file become one
//! checked [`Config`] before anything is bound or started. A flag wins over a variable, a
//! variable over the file, the file over the default.

mod admin;
pub(crate) mod models;
mod preload;

use std::{
    env, fs,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::builder::FalseyValueParser;
use onnxd_proto::limits::GROUP_ITEMS_MAX;
use serde::Deserialize;

pub(crate) use self::{
    admin::{AdminListen, Token},
    models::ModelSource,
};
use crate::{
    Failure,
    http::edge::{self, EdgeConfig},
    models::checker::CheckLimits,
    pool::Supervision,
};

/// Ten years.
const SECONDS_MAX: u64 = 10 * 366 * 24 * 3600;
/// Inputs of one request to the routes of text-embeddings-inference, unless told otherwise.
const CLIENT_BATCH: usize = 32;
/// Texts that may wait or be computed at once, unless told otherwise.
const QUEUE_LIMIT: usize = 512;
/// Restarts of a worker within a minute, unless told otherwise.
const WORKER_RESTARTS: u32 = 10;

/// What `serve` takes: each flag is also a variable and, with the same name, a key of the file.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct ServeArguments {
    /// A TOML file with any of the settings below as keys
    #[arg(long, value_name = "FILE", env = "ONNXD_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// A model directory to serve; without NAME= the directory's name is the model's. Several
    /// may be given (separated by commas in the variable); the first answers requests that name
    /// none
    #[arg(long, value_name = "[NAME=]DIR", env = "ONNXD_MODEL", value_delimiter = ',')]
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
    pub listen: Option<SocketAddr>,

    /// Where gRPC is served, with the API keys and the certificate of HTTP; it is not without this
    #[arg(long, value_name = "ADDRESS", env = "ONNXD_GRPC_LISTEN")]
    pub grpc_listen: Option<SocketAddr>,

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
    pub admin_listen: Option<SocketAddr>,

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

    /// CPUs that a request may use which is alone on the machine; 1 uses one as always
    /// [default: as many as there are workers, at most 4]
    #[arg(long, value_name = "N", env = "ONNXD_ALONE_CPUS")]
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

    /// How long after a commit two failures of workers bring the previous version back, in
    /// seconds [default: 60]
    #[arg(long, value_name = "SECONDS", env = "ONNXD_PROBATION")]
    pub probation: Option<u64>,

    /// Versions of each model that are kept for rollbacks [default: 3]
    #[arg(long, value_name = "N", env = "ONNXD_RETENTION")]
    pub retention: Option<NonZeroUsize>,

    /// Do not confine workers and checkers: a model that takes over one of them can then do what
    /// onnxd can. For kernels that cannot filter system calls
    #[arg(long, env = "ONNXD_NO_SANDBOX", value_parser = FalseyValueParser::new())]
    pub no_sandbox: bool,

    /// Check the configuration, say what is wrong, and end
    #[arg(long)]
    #[serde(skip)]
    pub check_config: bool,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// In the order given; the first answers requests that name none.
    pub models: Vec<ModelSource>,
    /// Where HTTP is served.
    pub listen: SocketAddr,
    /// Where gRPC is served, if it is.
    pub grpc_listen: Option<SocketAddr>,
    /// Who may ask, from where and over what.
    pub edge: EdgeConfig,
    /// Absolute.
    pub admin_socket: PathBuf,
    /// The admin interface over TCP, where it is wanted.
    pub admin_listen: Option<AdminListen>,
    /// Absolute.
    pub state_dir: PathBuf,
    /// `None`: one for each CPU.
    pub workers: Option<NonZeroUsize>,
    /// What a worker may use before it is recycled.
    pub worker_memory_bytes: Option<u64>,
    /// CPUs that a request may use which is alone.
    pub alone_cpus: usize,
    /// Absolute.
    pub onnxruntime: PathBuf,
    /// Absolute.
    pub worker_binary: PathBuf,
    /// From SIGTERM to the end of accepted requests.
    pub drain_timeout: Duration,
    /// How long workers are waited for, and how often they are started again.
    pub supervision: Supervision,
    /// `None`: as many as descriptors allow, within reason.
    pub max_connections: Option<NonZeroUsize>,
    /// From a successor's start until it is ready.
    pub succession_timeout: Duration,
    /// From a request's body to its answer.
    pub request_timeout: Duration,
    /// Texts that may wait or be computed at once.
    pub queue_limit: usize,
    pub max_client_batch_size: usize,
    /// For one check.
    pub check: CheckLimits,
    /// From a commit to the end of its probation.
    pub probation: Duration,
    /// Versions of each model that are kept.
    pub retention: usize,
    /// Whether workers and checkers are confined.
    pub sandbox: bool,
}

impl Config {
    /// Reads the file, if one is named, and checks everything that can be checked without
    /// starting anything.
    ///
    /// # Errors
    /// The first setting that cannot work, by name.
    pub(crate) fn load(flags: ServeArguments) -> Result<Self, Failure> {
        let file = match &flags.config {
            Some(path) => read_file(path)?,
            None => ServeArguments::default(),
        };
        let (check, supervision) = (check_limits(&flags, &file), supervision(&flags, &file));
        let specs = if flags.model.is_empty() { file.model } else { flags.model };
        let aliases =
            if flags.model_alias.is_empty() { file.model_alias } else { flags.model_alias };
        let preload = if flags.preload.is_empty() { file.preload } else { flags.preload };
        Ok(Self {
            models: preload::mark(models::served(&specs, &aliases)?, &preload)?,
            listen: flags.listen.or(file.listen).unwrap_or(([127, 0, 0, 1], 8080).into()),
            grpc_listen: flags.grpc_listen.or(file.grpc_listen),
            edge: EdgeConfig {
                api_key_file: flags.api_key_file.or(file.api_key_file),
                origins: edge::origins(if flags.cors_allow_origin.is_empty() {
                    &file.cors_allow_origin
                } else {
                    &flags.cors_allow_origin
                })?,
                tls: edge::tls_files(
                    flags.tls_cert.or(file.tls_cert),
                    flags.tls_key.or(file.tls_key),
                )?,
            },
            admin_socket: match flags.admin_socket.or(file.admin_socket) {
                Some(path) => absolute(&path)?,
                None => default_admin_socket()?,
            },
            admin_listen: AdminListen::load(
                flags.admin_listen.or(file.admin_listen),
                flags.admin_token_file.or(file.admin_token_file),
            )?,
            state_dir: match flags.state_dir.or(file.state_dir) {
                Some(path) => absolute(&path)?,
                None => default_state_dir()?,
            },
            workers: flags.workers.or(file.workers),
            worker_memory_bytes: flags.worker_memory.or(file.worker_memory).map(mebibytes),
            alone_cpus: flags.alone_cpus.or(file.alone_cpus).map_or(4, Into::into),
            onnxruntime: executable_file(
                "--onnxruntime",
                flags.onnxruntime.or(file.onnxruntime),
                "libonnxruntime.so",
            )?,
            worker_binary: executable_file(
                "--worker-binary",
                flags.worker_binary.or(file.worker_binary),
                "onnxd-worker",
            )?,
            drain_timeout: seconds(flags.drain_timeout, file.drain_timeout, 30),
            supervision,
            max_connections: flags.max_connections.or(file.max_connections),
            succession_timeout: seconds(flags.succession_timeout, file.succession_timeout, 300),
            request_timeout: seconds(flags.request_timeout, file.request_timeout, 30),
            queue_limit: queue_limit(flags.queue_limit.or(file.queue_limit))?,
            max_client_batch_size: flags
                .max_client_batch_size
                .or(file.max_client_batch_size)
                .map_or(CLIENT_BATCH, Into::into),
            check,
            probation: seconds(flags.probation, file.probation, 60),
            retention: flags.retention.or(file.retention).map_or(3, Into::into),
            sandbox: !(flags.no_sandbox || file.no_sandbox),
        })
    }
}

/// Longer than anybody waits is cut to what can be added to any time.
fn seconds(flag: Option<u64>, file: Option<u64>, default: u64) -> Duration {
    Duration::from_secs(flag.or(file).unwrap_or(default).min(SECONDS_MAX))
}

fn check_limits(flags: &ServeArguments, file: &ServeArguments) -> CheckLimits {
    CheckLimits {
        timeout: seconds(flags.check_timeout, file.check_timeout, 120),
        memory_bytes: flags.check_memory.or(file.check_memory).unwrap_or(4096) << 20,
        min_cosine: flags.min_cosine.or(file.min_cosine),
    }
}

fn supervision(flags: &ServeArguments, file: &ServeArguments) -> Supervision {
    Supervision {
        stopped_grace: seconds(flags.stopped_grace, file.stopped_grace, 2),
        start_timeout: seconds(flags.start_timeout, file.start_timeout, 120),
        restarts_max: flags
            .worker_restarts
            .or(file.worker_restarts)
            .map_or(WORKER_RESTARTS, Into::into),
    }
}

fn mebibytes(count: NonZeroU64) -> u64 {
    count.get().saturating_mul(1 << 20)
}

/// A request with as many inputs as are allowed must fit an empty queue.
fn queue_limit(given: Option<NonZeroUsize>) -> Result<usize, Failure> {
    match given.map_or(QUEUE_LIMIT, Into::into) {
        limit if limit < GROUP_ITEMS_MAX => Err(Failure::configuration(format!(
            "--queue-limit {limit}: one request may have {GROUP_ITEMS_MAX} texts, and they must fit"
        ))),
        limit => Ok(limit),
    }
}

fn read_file(path: &Path) -> Result<ServeArguments, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::configuration(format!("--config {}: {error}", path.display())))?;
    toml::from_str(&text)
        .map_err(|error| Failure::configuration(format!("--config {}: {error}", path.display())))
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::configuration(format!("{:?}: {error}", path.display())))
}

/// A file that is given by a flag or stands beside this executable.
fn executable_file(flag: &str, given: Option<PathBuf>, beside: &str) -> Result<PathBuf, Failure> {
    let path = match given {
        Some(path) => absolute(&path)?,
        None => env::current_exe()
            .map_err(|error| Failure::internal(format!("own executable: {error}")))?
            .with_file_name(beside),
    };
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => Err(Failure::configuration(format!("{flag}: {} is no file", path.display()))),
        Err(error) => Err(Failure::configuration(format!(
            "{flag}: {}: {error}; give the file by {flag} PATH",
            path.display()
        ))),
    }
}

const ADMIN_SOCKET: &str = "onnxd-admin.sock";

/// Where a supervisor that was told nothing puts its admin socket.
fn default_admin_socket() -> Result<PathBuf, Failure> {
    ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().find_map(directory_variable).map_or_else(
        || {
            Err(Failure::configuration(
                "neither $RUNTIME_DIRECTORY nor $XDG_RUNTIME_DIR is set: say where the admin socket goes by --admin-socket PATH",
            ))
        },
        |directory| Ok(directory.join(ADMIN_SOCKET)),
    )
}

/// Where a client that was told nothing looks for the admin socket, in this order.
pub(crate) fn admin_socket_candidates() -> Vec<PathBuf> {
    ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"]
        .into_iter()
        .filter_map(directory_variable)
        .chain([PathBuf::from("/run/onnxd")])
        .map(|directory| directory.join(ADMIN_SOCKET))
        .collect()
}

fn default_state_dir() -> Result<PathBuf, Failure> {
    directory_variable("STATE_DIRECTORY")
        .or_else(|| directory_variable("XDG_STATE_HOME").map(|home| home.join("onnxd")))
        .or_else(|| directory_variable("HOME").map(|home| home.join(".local/state/onnxd")))
        .ok_or_else(|| {
            Failure::configuration(
                "none of $STATE_DIRECTORY, $XDG_STATE_HOME and $HOME is set: say where versions are kept by --state-dir DIR",
            )
        })
}

fn directory_variable(name: &str) -> Option<PathBuf> {
    let value = PathBuf::from(env::var_os(name)?);
    value.is_absolute().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_file_is_known_and_a_wrong_one_is_named() {
        let file: ServeArguments = toml::from_str(
            "model = ['m=/x']\nlisten = '[::1]:1'\nadmin-socket = '/a'\nstate-dir = '/s'\n\
             workers = 2\nonnxruntime = '/o'\nworker-binary = '/w'\ndrain-timeout = 1\n\
             request-timeout = 2\ncheck-timeout = 3\ncheck-memory = 4\nmin-cosine = 0.5\n\
             probation = 5\nretention = 6\nqueue-limit = 7\nalone-cpus = 8\n\
             api-key-file = '/k'\ncors-allow-origin = ['*']\ntls-cert = '/c'\ntls-key = '/t'\n\
             preload = ['m']\nmodel-alias = ['x=m']\nadmin-listen = '[::1]:2'\nadmin-token-file = '/t'\n\
             grpc-listen = '[::1]:3'\nno-sandbox = true\nmax-connections = 9\n\
             succession-timeout = 9\nworker-restarts = 3\nstart-timeout = 4\nstopped-grace = 5\n\
             worker-memory = 10",
        )
        .unwrap();
        assert_eq!(file.workers, NonZeroUsize::new(2));
        assert!(file.no_sandbox);
        let error = toml::from_str::<ServeArguments>("worker = 2").unwrap_err();
        assert!(error.to_string().contains("worker"), "{error}");
    }
}
