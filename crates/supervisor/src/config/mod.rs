//! Combines flags, `ONNXD_*` variables and a TOML file into one checked [`Config`], before `serve` binds or starts
//! anything. A flag wins over a variable, a variable over the file, the file over the default.

mod address;
mod admin;
mod allowed_sources;
mod file;
mod flags;
mod logging;
pub(crate) mod models;
mod origins;
mod otlp;
mod paths;
mod preload;
mod sources;
mod values;
mod variables;

use std::{
    collections::HashMap,
    net::SocketAddr,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use onnxd_proto::limits::GROUP_ITEMS_MAX;

use self::paths::default_admin_socket;
pub(crate) use self::{
    address::ListenAddress,
    admin::{AdminListen, Token},
    allowed_sources::AllowedSources,
    file::{error_context, flag_example},
    flags::ServeArguments,
    origins::Origins,
    otlp::Otlp,
    paths::{
        absolute, admin_socket_candidates, executable_file, installed_file, source_uri, state_dir,
    },
    values::{boolean, cosine, count, generation, mebibytes, seconds},
    variables::{unknown as unknown_variables, without_empty},
};
use crate::transport::edge::{self, EdgeConfig, IDLE_TIMEOUT};
use onnxd_engine::models::registry::ModelSource;
use onnxd_engine::{models::update::checker::CheckLimits, pool::Supervision};
use onnxd_proto::exit::Failure;

/// Maximum duration: ten years. A longer one might overflow when added to a time.
const SECONDS_MAX: u64 = 10 * 366 * 24 * 3600;
/// Default of `--max-client-batch-size`.
const CLIENT_BATCH: usize = 32;
/// Default of `--queue-limit`.
const QUEUE_LIMIT: usize = 512;
/// Default of `--idle-cpus`.
const IDLE_CPUS: usize = 4;
/// Maximum of `--workers`. Each takes a process, a thread and several descriptors.
const WORKERS_MAX: usize = 1024;
/// Default of `--retention`.
const RETENTION: usize = 3;
/// Default of `--request-timeout`, in seconds.
const REQUEST_TIMEOUT: u64 = 30;
/// Default of `--worker-restarts`.
const WORKER_RESTARTS: u32 = 10;

/// A checked configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// In the configured order. The first answers requests that name none.
    pub models: Vec<ModelSource>,
    /// Address for HTTP.
    pub listen: SocketAddr,
    /// Address for gRPC, if it is on.
    pub grpc_listen: Option<SocketAddr>,
    /// API keys, web origins and TLS.
    pub edge: EdgeConfig,
    /// Absolute.
    pub admin_socket: PathBuf,
    /// The admin interface over TCP, if it is on.
    pub admin_listen: Option<AdminListen>,
    /// Sources on other servers that admin calls may name.
    pub allowed_sources: AllowedSources,
    /// Absolute.
    pub state_dir: PathBuf,
    /// `None`: one per usable CPU.
    pub workers: Option<NonZeroUsize>,
    /// Private memory at which a worker is recycled.
    pub worker_memory_bytes: Option<u64>,
    /// CPUs for a single request while the server is otherwise idle.
    pub idle_cpus: usize,
    /// Absolute.
    pub onnxruntime: PathBuf,
    /// Absolute.
    pub worker_binary: PathBuf,
    /// Absolute; `None` if it is not installed and no model needs it.
    pub fetch_binary: Option<PathBuf>,
    /// How often the sources of models are checked, by name. Other sources are not watched.
    pub poll: HashMap<String, Duration>,
    /// How long the server goes on accepting after SIGTERM, while it is not ready.
    pub shutdown_delay: Duration,
    /// How long accepted requests may take after SIGTERM.
    pub drain_timeout: Duration,
    /// Timeouts and restart limit of workers.
    pub supervision: Supervision,
    /// `None`: the default, or fewer if the limit on descriptors is low.
    pub max_connections: Option<NonZeroUsize>,
    /// How long a successor may take until it is ready.
    pub succession_timeout: Duration,
    /// How long a request may take after its body has arrived.
    pub request_timeout: Duration,
    /// Inputs of one model that may wait or run.
    pub queue_limit: usize,
    /// Inputs per request on TEI routes.
    pub max_client_batch_size: usize,
    /// Limits of one check, except those that depend on the machine.
    pub check: CheckLimits,
    /// Memory of one check; `None`: by the machine's memory.
    pub check_memory_bytes: Option<u64>,
    /// Memory of large bodies; `None`: by the machine's memory.
    pub body_memory_bytes: Option<u64>,
    /// How long after a commit failures roll it back.
    pub probation: Duration,
    /// Versions of each model to keep.
    pub retention: usize,
    /// Whether workers and checkers are confined.
    pub sandbox: bool,
    /// Where traces are sent; `None` if nowhere.
    pub otlp: Option<Otlp>,
}

impl Config {
    /// Applies defaults and checks everything that needs no running server. `settings` include
    /// [those of the file](ServeArguments::with_file).
    ///
    /// # Errors
    /// A setting is invalid. The message names its flag.
    pub(crate) fn load(settings: ServeArguments) -> Result<Self, Failure> {
        let (check, supervision) = (check_limits(&settings), supervision(&settings));
        let models = models::parse(&settings.model, &settings.model_alias)?;
        let models = sources::with_rules(models, &settings.source_key, settings.settle)?;
        let variable = |name: &str| std::env::var(name).ok();
        let otlp = Otlp::load(settings.otlp_endpoint.as_deref(), settings.trace_ratio, variable)?;
        Ok(Self {
            poll: sources::intervals(&models, &settings.poll)?,
            fetch_binary: sources::fetcher(settings.fetch_binary, &models, otlp.is_some())?,
            models: preload::mark(models, &settings.preload, &settings.require)?,
            listen: match &settings.listen {
                Some(address) => address.resolve("--listen")?,
                None => ([127, 0, 0, 1], 8080).into(),
            },
            grpc_listen: match &settings.grpc_listen {
                Some(address) => Some(address.resolve("--grpc-listen")?),
                None => None,
            },
            edge: EdgeConfig {
                access_log: logging::access(settings.access_log, &settings.trusted_proxy)?,
                idle_timeout: duration(settings.idle_timeout, IDLE_TIMEOUT.as_secs()),
                api_key_file: settings.api_key_file,
                origins: edge::origins(&settings.cors_allow_origin)?,
                tls: edge::tls_files(settings.tls_cert, settings.tls_key)?,
            },
            admin_socket: match settings.admin_socket {
                Some(path) => absolute("--admin-socket", &path)?,
                None => default_admin_socket()?.1,
            },
            admin_listen: AdminListen::load(
                settings.admin_listen,
                settings.admin_token_file,
                settings.webhook_secret_file,
            )?,
            allowed_sources: AllowedSources::parse(&settings.allow_source)?,
            state_dir: state_dir(settings.state_dir.as_deref())?,
            workers: workers(settings.workers)?,
            worker_memory_bytes: settings.worker_memory.map(bytes),
            idle_cpus: idle_cpus(settings.idle_cpus, settings.alone_cpus)?,
            onnxruntime: installed_file(
                "--onnxruntime",
                settings.onnxruntime,
                "libonnxruntime.so",
            )?,
            worker_binary: executable_file(
                "--worker-binary",
                settings.worker_binary,
                "onnxd-worker",
            )?,
            shutdown_delay: duration(settings.shutdown_delay, 0),
            drain_timeout: duration(settings.drain_timeout, 30),
            supervision,
            max_connections: settings.max_connections,
            succession_timeout: duration(settings.succession_timeout, 300),
            request_timeout: duration(settings.request_timeout, REQUEST_TIMEOUT),
            queue_limit: queue_limit(settings.queue_limit)?,
            max_client_batch_size: settings.max_client_batch_size.map_or(CLIENT_BATCH, Into::into),
            check,
            check_memory_bytes: settings.check_memory.map(|mebibytes| mebibytes << 20),
            body_memory_bytes: settings.body_memory.map(bytes),
            probation: duration(settings.probation, 60),
            retention: settings.retention.map_or(RETENTION, Into::into),
            sandbox: !settings.no_sandbox.unwrap_or(false),
            otlp,
        })
    }
}

/// Converts seconds to a duration of at most [`SECONDS_MAX`].
fn duration(given: Option<u64>, default: u64) -> Duration {
    Duration::from_secs(given.unwrap_or(default).min(SECONDS_MAX))
}

/// Returns the limits of a check, except those of memory.
pub(crate) fn check_limits(settings: &ServeArguments) -> CheckLimits {
    CheckLimits {
        timeout: duration(settings.check_timeout, 120),
        min_cosine: settings.min_cosine,
        // Set when the machine's memory and the number of workers are known.
        memory_bytes: 0,
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

/// Returns the value of `--idle-cpus` or of its former name, `--alone-cpus`, which works for one more release.
fn idle_cpus(given: Option<NonZeroUsize>, former: Option<NonZeroUsize>) -> Result<usize, Failure> {
    if given.is_some() && former.is_some() {
        return Err(Failure::configuration(
            "--alone-cpus is the former name of --idle-cpus, pass only --idle-cpus",
        ));
    }
    Ok(given.or(former).map_or(IDLE_CPUS, Into::into))
}

/// Checks that the largest request fits an empty queue.
/// Returns the number of workers, if it is given.
fn workers(given: Option<NonZeroUsize>) -> Result<Option<NonZeroUsize>, Failure> {
    match given {
        Some(workers) if workers.get() > WORKERS_MAX => Err(Failure::configuration(format!(
            "--workers: expected a number between 1 and {WORKERS_MAX}, got \"{workers}\""
        ))),
        workers => Ok(workers),
    }
}

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
    fn too_many_workers_are_refused() {
        let workers = |number| super::workers(NonZeroUsize::new(number));
        assert!(workers(WORKERS_MAX).is_ok_and(|workers| workers.is_some()));
        let message = workers(100_000).unwrap_err().message;
        assert_eq!(message, "--workers: expected a number between 1 and 1024, got \"100000\"");
    }

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
