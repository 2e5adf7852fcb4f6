//! The configuration of `onnxd serve`: flags, `ONNXD_*` variables and a TOML file become one
//! checked [`Config`] before anything is bound or started. A flag wins over a variable, a
//! variable over the file, the file over the default.

mod admin;
mod flags;
pub(crate) mod models;
mod paths;
mod preload;

use std::{
    net::SocketAddr,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use onnxd_proto::limits::GROUP_ITEMS_MAX;

pub(crate) use self::{
    admin::{AdminListen, Token},
    flags::ServeArguments,
    paths::admin_socket_candidates,
};
use self::{
    flags::read_file,
    paths::{absolute, default_admin_socket, default_state_dir, executable_file},
};
use crate::transport::edge::{self, EdgeConfig};
use onnxd_engine::models::registry::ModelSource;
use onnxd_engine::{models::update::checker::CheckLimits, pool::Supervision};
use onnxd_proto::exit::Failure;

/// Ten years.
const SECONDS_MAX: u64 = 10 * 366 * 24 * 3600;
/// Inputs of one request to the routes of text-embeddings-inference, unless told otherwise.
const CLIENT_BATCH: usize = 32;
/// Texts that may wait or be computed at once, unless told otherwise.
const QUEUE_LIMIT: usize = 512;
/// Restarts of a worker within a minute, unless told otherwise.
const WORKER_RESTARTS: u32 = 10;

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
