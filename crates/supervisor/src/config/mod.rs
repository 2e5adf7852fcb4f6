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
mod problems;
mod search;
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
    problems::Problems,
    search::{DatabaseUrl, SearchStore},
    values::{boolean, cosine, count, generation, mebibytes, seconds},
    variables::{unknown as unknown_variables, without_empty},
};
use crate::transport::edge::{self, Edge, EdgeConfig, IDLE_TIMEOUT};
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
    /// Where collections of documents are kept.
    pub search: SearchStore,
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
    /// Applies defaults, checks everything that needs no running server, and reads the files of the edge. `settings`
    /// include [those of the file](ServeArguments::with_file).
    ///
    /// # Errors
    /// Settings are invalid. The message has a line for each, which names its flag.
    pub(crate) fn load(settings: ServeArguments) -> Result<(Self, Edge), Failure> {
        let mut problems = Problems::default();
        let edge = edge(&settings, &mut problems);
        let config = Self::collect(settings, &mut problems);
        problems.finish()?;
        // Without a problem, nothing is missing.
        let loaded = config.and_then(|config| Some((config, edge?)));
        loaded.ok_or_else(|| Failure::internal("internal error: the configuration is incomplete"))
    }

    /// Does what [`load`](Self::load) does, for `--check-config`: a problem of the edge or of an executable
    /// does not hide what else a start would find. The path of such an executable is empty.
    pub(crate) fn load_to_check(settings: ServeArguments, problems: &mut Problems) -> Option<Self> {
        edge(&settings, problems);
        Self::collect(settings, problems)
    }

    /// Returns `None` after a problem, except that of an executable.
    fn collect(settings: ServeArguments, problems: &mut Problems) -> Option<Self> {
        let (check, supervision) = (check_limits(&settings), supervision(&settings));
        let otlp = problems.keep(otlp(&settings));
        let exports_traces = otlp.as_ref().is_some_and(Option::is_some);
        let served = Served::collect(&settings, exports_traces, problems);
        let listening = &settings.listening;
        let listen = problems.keep(match &listening.listen {
            Some(address) => address.resolve("--listen"),
            None => Ok(([127, 0, 0, 1], 8080).into()),
        });
        let grpc_listen = problems.keep(grpc_listen(listening.grpc_listen.as_ref()));
        let (onnxruntime, worker_binary) = executables(&settings, problems);
        let admin_socket = problems.keep(match settings.listening.admin_socket {
            Some(path) => absolute("--admin-socket", &path),
            None => default_admin_socket().map(|(_, path)| path),
        });
        let admin_listen = problems.keep(AdminListen::load(
            settings.listening.admin_listen,
            settings.security.admin_token_file,
            settings.security.webhook_secret_file,
        ));
        let allowed_sources = problems.keep(AllowedSources::parse(&settings.security.allow_source));
        let state_dir = problems.keep(state_dir(settings.state.state_dir.as_deref()));
        let idle_cpus =
            problems.keep(idle_cpus(settings.workers.idle_cpus, settings.workers.alone_cpus));
        let workers = problems.keep(workers(settings.workers.workers));
        let queue_limit = problems.keep(queue_limit(settings.limits.queue_limit));
        let search = &settings.search;
        let search =
            problems.keep(search::store(search.search.as_deref(), search.index_binary.clone()));
        let Served { models, poll, fetch_binary } = served?;
        Some(Self {
            poll,
            fetch_binary,
            search: search?,
            models,
            listen: listen?,
            grpc_listen: grpc_listen?,
            admin_socket: admin_socket?,
            admin_listen: admin_listen?,
            allowed_sources: allowed_sources?,
            state_dir: state_dir?,
            workers: workers?,
            worker_memory_bytes: settings.workers.worker_memory.map(bytes),
            idle_cpus: idle_cpus?,
            onnxruntime,
            worker_binary,
            shutdown_delay: duration(settings.limits.shutdown_delay, 0),
            drain_timeout: duration(settings.limits.drain_timeout, 30),
            supervision,
            max_connections: settings.limits.max_connections,
            succession_timeout: duration(settings.limits.succession_timeout, 300),
            request_timeout: duration(settings.limits.request_timeout, REQUEST_TIMEOUT),
            queue_limit: queue_limit?,
            max_client_batch_size: settings
                .limits
                .max_client_batch_size
                .map_or(CLIENT_BATCH, Into::into),
            check,
            check_memory_bytes: settings.updates.check_memory.map(|mebibytes| mebibytes << 20),
            body_memory_bytes: settings.limits.body_memory.map(bytes),
            probation: duration(settings.updates.probation, 60),
            retention: settings.state.retention.map_or(RETENTION, Into::into),
            sandbox: !settings.security.no_sandbox.unwrap_or(false),
            otlp: otlp?,
        })
    }
}

fn otlp(settings: &ServeArguments) -> Result<Option<Otlp>, Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    let flags = &settings.tracing;
    Otlp::load(flags.otlp_endpoint.as_deref(), flags.trace_ratio, variable)
}

fn grpc_listen(given: Option<&ListenAddress>) -> Result<Option<SocketAddr>, Failure> {
    given.map(|address| address.resolve("--grpc-listen")).transpose()
}

/// Returns ONNX Runtime and the worker's executable. After a problem, the path is empty.
fn executables(settings: &ServeArguments, problems: &mut Problems) -> (PathBuf, PathBuf) {
    let (library, binary) =
        (settings.workers.onnxruntime.clone(), settings.workers.worker_binary.clone());
    let library = problems.keep(installed_file("--onnxruntime", library, "libonnxruntime.so"));
    let binary = problems.keep(executable_file("--worker-binary", binary, "onnxd-worker"));
    (library.unwrap_or_default(), binary.unwrap_or_default())
}

/// The models, and what reads their sources.
struct Served {
    models: Vec<ModelSource>,
    poll: HashMap<String, Duration>,
    fetch_binary: Option<PathBuf>,
}

impl Served {
    /// Returns `None` after a problem.
    fn collect(
        settings: &ServeArguments,
        exports_traces: bool,
        problems: &mut Problems,
    ) -> Option<Self> {
        let models = models::parse(&settings.models.model, &settings.models.model_alias);
        let models = problems.keep(models);
        let needed_by = models.as_deref().unwrap_or_default();
        let fetcher =
            sources::fetcher(settings.updates.fetch_binary.clone(), needed_by, exports_traces);
        let fetch_binary = problems.keep(fetcher);
        // Without models, every name would be unknown.
        let models = models?;
        let keys = &settings.security.source_key;
        let rules = problems.keep(sources::rules(&models, keys, settings.models.settle));
        let poll = problems.keep(sources::intervals(&models, &settings.models.poll));
        let models = problems.keep(preload::mark(
            models,
            &settings.models.preload,
            &settings.models.require,
        ));
        let models = sources::with_rules(models?, rules?);
        Some(Self { models, poll: poll?, fetch_binary: fetch_binary? })
    }
}

/// Reads the settings and the files of the edge. Returns `None` after a problem.
fn edge(settings: &ServeArguments, problems: &mut Problems) -> Option<Edge> {
    let access_log =
        logging::access(settings.logging.access_log.clone(), &settings.logging.trusted_proxy);
    let access_log = problems.keep(access_log);
    let origins = problems.keep(edge::origins(&settings.security.cors_allow_origin));
    let tls =
        edge::tls_files(settings.security.tls_cert.clone(), settings.security.tls_key.clone());
    let tls = problems.keep(tls);
    let idle_timeout = problems.keep(idle_timeout(settings.limits.idle_timeout));
    let config = EdgeConfig {
        access_log: access_log.unwrap_or_default(),
        idle_timeout: idle_timeout.unwrap_or_default(),
        api_key_file: settings.security.api_key_file.clone(),
        origins: origins.unwrap_or_default(),
        tls: tls.flatten(),
    };
    let keys = problems.keep(edge::load_keys(&config));
    let tls = problems.keep(edge::load_tls(&config));
    Some(Edge::new(config, keys?, tls?))
}

/// Returns how long a connection may be idle. With 0, a client that sends its next request on it would lose it.
fn idle_timeout(given: Option<u64>) -> Result<Duration, Failure> {
    match given {
        Some(0) => Err(Failure::configuration("--idle-timeout: expected at least 1 second, got 0")),
        given => Ok(duration(given, IDLE_TIMEOUT.as_secs())),
    }
}

/// Converts seconds to a duration of at most [`SECONDS_MAX`].
fn duration(given: Option<u64>, default: u64) -> Duration {
    Duration::from_secs(given.unwrap_or(default).min(SECONDS_MAX))
}

/// Returns the limits of a check, except those of memory.
pub(crate) fn check_limits(settings: &ServeArguments) -> CheckLimits {
    CheckLimits {
        timeout: duration(settings.updates.check_timeout, 120),
        min_cosine: settings.updates.min_cosine,
        // Set when the machine's memory and the number of workers are known.
        memory_bytes: 0,
        worker_bytes: None,
        text_time: duration(settings.limits.request_timeout, REQUEST_TIMEOUT) / 2,
        strict: settings.updates.strict.unwrap_or(false),
    }
}

fn supervision(settings: &ServeArguments) -> Supervision {
    Supervision {
        stopped_grace: duration(settings.workers.stopped_grace, 2),
        start_timeout: duration(settings.workers.start_timeout, 120),
        restarts_max: settings.workers.worker_restarts.map_or(WORKER_RESTARTS, Into::into),
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

/// Returns the number of workers, if it is given.
fn workers(given: Option<NonZeroUsize>) -> Result<Option<NonZeroUsize>, Failure> {
    match given {
        Some(workers) if workers.get() > WORKERS_MAX => Err(Failure::configuration(format!(
            "--workers: expected a number between 1 and {WORKERS_MAX}, got \"{workers}\""
        ))),
        workers => Ok(workers),
    }
}

/// Checks that the largest request fits an empty queue.
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
