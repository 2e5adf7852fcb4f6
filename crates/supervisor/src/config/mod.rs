//! The configuration of `onnxd serve`: flags, `ONNXD_*` variables and a TOML file become one
//! checked [`Config`] before anything is bound or started. A flag wins over a variable, a
//! variable over the file, the file over the default.

mod address;
mod admin;
mod file;
mod flags;
pub(crate) mod models;
mod origins;
mod paths;
mod preload;
mod values;

use std::{
    net::SocketAddr,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use onnxd_proto::limits::GROUP_ITEMS_MAX;

use self::paths::{absolute, default_admin_socket, default_state_dir};
pub(crate) use self::{
    address::ListenAddress,
    admin::{AdminListen, Token},
    flags::ServeArguments,
    origins::Origins,
    paths::{admin_socket_candidates, executable_file},
    values::{boolean, cosine, count, mebibytes, seconds},
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
/// CPUs of a request while the server is otherwise idle, unless told otherwise.
const IDLE_CPUS: usize = 4;
/// Versions of each model that are kept, unless told otherwise.
const RETENTION: usize = 3;
/// Seconds from a request's body to its answer, unless told otherwise.
const REQUEST_TIMEOUT: u64 = 30;
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
    /// CPUs for a single request while the server is otherwise idle.
    pub idle_cpus: usize,
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
    /// Checks everything that can be checked without starting anything. `settings` are flags and
    /// variables [with those of the file](ServeArguments::with_file).
    ///
    /// # Errors
    /// The first setting that cannot work, by name.
    pub(crate) fn load(settings: ServeArguments) -> Result<Self, Failure> {
        let (check, supervision) = (check_limits(&settings), supervision(&settings));
        let models = models::served(&settings.model, &settings.model_alias)?;
        Ok(Self {
            models: preload::mark(models, &settings.preload)?,
            listen: match &settings.listen {
                Some(address) => address.resolve("--listen")?,
                None => ([127, 0, 0, 1], 8080).into(),
            },
            grpc_listen: match &settings.grpc_listen {
                Some(address) => Some(address.resolve("--grpc-listen")?),
                None => None,
            },
            edge: EdgeConfig {
                api_key_file: settings.api_key_file,
                origins: edge::origins(&settings.cors_allow_origin)?,
                tls: edge::tls_files(settings.tls_cert, settings.tls_key)?,
            },
            admin_socket: match settings.admin_socket {
                Some(path) => absolute(&path)?,
                None => default_admin_socket()?,
            },
            admin_listen: AdminListen::load(settings.admin_listen, settings.admin_token_file)?,
            state_dir: match settings.state_dir {
                Some(path) => absolute(&path)?,
                None => default_state_dir()?,
            },
            workers: settings.workers,
            worker_memory_bytes: settings.worker_memory.map(bytes),
            idle_cpus: idle_cpus(settings.idle_cpus, settings.alone_cpus)?,
            onnxruntime: executable_file(
                "--onnxruntime",
                settings.onnxruntime,
                "libonnxruntime.so",
            )?,
            worker_binary: executable_file(
                "--worker-binary",
                settings.worker_binary,
                "onnxd-worker",
            )?,
            drain_timeout: duration(settings.drain_timeout, 30),
            supervision,
            max_connections: settings.max_connections,
            succession_timeout: duration(settings.succession_timeout, 300),
            request_timeout: duration(settings.request_timeout, REQUEST_TIMEOUT),
            queue_limit: queue_limit(settings.queue_limit)?,
            max_client_batch_size: settings.max_client_batch_size.map_or(CLIENT_BATCH, Into::into),
            check,
            probation: duration(settings.probation, 60),
            retention: settings.retention.map_or(RETENTION, Into::into),
            sandbox: !settings.no_sandbox.unwrap_or(false),
        })
    }
}

/// A duration in seconds, cut to what can be added to any time.
fn duration(given: Option<u64>, default: u64) -> Duration {
    Duration::from_secs(given.unwrap_or(default).min(SECONDS_MAX))
}

/// What a check may use and what it demands, but for each worker's memory.
pub(crate) fn check_limits(settings: &ServeArguments) -> CheckLimits {
    CheckLimits {
        timeout: duration(settings.check_timeout, 120),
        memory_bytes: settings.check_memory.unwrap_or(4096) << 20,
        min_cosine: settings.min_cosine,
        // Known when workers are counted.
        worker_bytes: None,
        text_time: duration(settings.request_timeout, REQUEST_TIMEOUT) / 2,
        strict: settings.strict.unwrap_or(false),
    }
}

fn supervision(settings: &ServeArguments) -> Supervision {
    Supervision {
        stopped_grace: duration(settings.stopped_grace, 2),
        start_timeout: duration(settings.start_timeout, 120),
        restarts_max: settings.worker_restarts.map_or(WORKER_RESTARTS, Into::into),
    }
}

fn bytes(mebibytes: NonZeroU64) -> u64 {
    mebibytes.get().saturating_mul(1 << 20)
}

/// Merges `--idle-cpus` and its former name, `--alone-cpus`, which works for one more release.
fn idle_cpus(given: Option<NonZeroUsize>, former: Option<NonZeroUsize>) -> Result<usize, Failure> {
    if given.is_some() && former.is_some() {
        return Err(Failure::configuration(
            "--idle-cpus and --alone-cpus are the new and the former name of one setting: remove --alone-cpus",
        ));
    }
    Ok(given.or(former).map_or(IDLE_CPUS, Into::into))
}

/// A request with as many inputs as are allowed must fit an empty queue.
fn queue_limit(given: Option<NonZeroUsize>) -> Result<usize, Failure> {
    match given.map_or(QUEUE_LIMIT, Into::into) {
        limit if limit < GROUP_ITEMS_MAX => Err(Failure::configuration(format!(
            "--queue-limit: expected a number of at least {GROUP_ITEMS_MAX}, the inputs of the largest request, got \"{limit}\""
        ))),
        limit => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_cpus_accepts_its_former_name_but_not_both() {
        let (four, two) = (NonZeroUsize::new(4), NonZeroUsize::new(2));
        assert_eq!(idle_cpus(None, None).unwrap(), IDLE_CPUS);
        assert_eq!(idle_cpus(two, None).unwrap(), 2);
        assert_eq!(idle_cpus(None, two).unwrap(), 2);
        let message = idle_cpus(four, two).unwrap_err().message;
        assert!(message.contains("--idle-cpus") && message.contains("--alone-cpus"), "{message}");
    }
}
