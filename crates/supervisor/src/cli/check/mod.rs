//! `onnxd check`: tries a source as an update would, without a server. For the CI of whoever makes
//! models. The parts are told on standard error as they pass, the result on standard output.

mod report;

use std::{
    env,
    io::{self, Write},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use onnxd_engine::{
    models::{
        sources::Sources,
        store::Store,
        update::{
            background::Background,
            checker::{CheckLimits, Checker},
            trial::{Part, Trials, Tried},
        },
    },
    pool::executable::WorkerExecutable,
    tasks::EssentialTasks,
};
use onnxd_proto::{
    domain::{Refusal, SourceUri},
    exit::{ExitStatus, Failure},
};
use onnxd_telemetry::log;

use self::report::Report;
use super::say;
use crate::{
    config::{self, ServeArguments, boolean},
    process::{confinement, machine, signals::Signals},
};

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    /// The model, DIR or file:///DIR
    #[arg(value_name = "DIR|URI")]
    pub source: String,
    /// Another version to compare with: the model must be able to follow it in an update
    #[arg(long, value_name = "DIR|URI")]
    pub against: Option<String>,
    /// Refuse embeddings of fixed texts with a smaller cosine to those of --against
    #[arg(long, value_name = "COSINE", requires = "against")]
    pub min_cosine: Option<f64>,
    /// Refuse a model about which something has to be guessed, or whose longest text has to be
    /// shortened to fit memory or time
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
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
    /// ONNX Runtime's shared library, 1.24 or newer
    /// [default: libonnxruntime.so beside this executable]
    #[arg(long, value_name = "PATH", env = "ONNXD_ONNXRUNTIME")]
    pub onnxruntime: Option<PathBuf>,
    /// The worker's executable [default: onnxd-worker beside this executable]
    #[arg(long, value_name = "PATH", env = "ONNXD_WORKER_BINARY")]
    pub worker_binary: Option<PathBuf>,
    /// How long the check may take, in seconds [default: 120]
    #[arg(long, value_name = "SECONDS", env = "ONNXD_CHECK_TIMEOUT")]
    pub check_timeout: Option<u64>,
    /// How much memory the check may use, in MiB [default: 4096]
    #[arg(long, value_name = "MIB", env = "ONNXD_CHECK_MEMORY")]
    pub check_memory: Option<u64>,
    /// How long a request may take where the model is served, in seconds; the longest text takes at
    /// most half of it [default: 30]
    #[arg(long, value_name = "SECONDS", env = "ONNXD_REQUEST_TIMEOUT")]
    pub request_timeout: Option<u64>,
    /// Worker processes that share this machine's memory [default: one for each CPU]
    #[arg(long, value_name = "N", env = "ONNXD_WORKERS")]
    pub workers: Option<NonZeroUsize>,
    /// Do not confine the process that tries the model
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
}

/// Tries the source, and the one to compare with first.
///
/// # Errors
/// The arguments or the installation are wrong. A model that cannot be served is no error, but
/// [`ExitStatus::Refused`].
pub(crate) fn main(arguments: &CheckArguments) -> Result<ExitStatus, Failure> {
    log::init(None).map_err(|error| Failure::configuration(error.to_string()))?;
    let source = source(&arguments.source)?;
    let against = arguments.against.as_deref().map(self::source).transpose()?;
    let executable = executable(arguments)?;
    let limits = limits(arguments)?;
    let room = tempfile::Builder::new()
        .prefix("onnxd-check-")
        .tempdir()
        .map_err(|error| Failure::configuration(format!("a temporary directory: {error}")))?;
    let store = Arc::new(Store::open(room.path(), 1, Sources::new(executable.clone()), None)?);
    confinement::give_up_privileges();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("the runtime: {error}")))?;
    let started = Instant::now();
    let outcome = runtime.block_on(async {
        let mut signals =
            Signals::install().map_err(|error| Failure::internal(error.to_string()))?;
        let background = Background::default();
        let checker = Checker::new(executable, limits, &EssentialTasks::default())?;
        let trials = Trials { store, checker, background: background.clone() };
        let outcome = tokio::select! {
            outcome = run(&trials, &source, against.as_ref()) => Some(outcome),
            () = signals.stop() => None,
        };
        drop(trials);
        background.finish().await;
        Ok::<_, Failure>(outcome)
    })?;
    // Its threads may hold files in the temporary directory, which goes next.
    drop(runtime);
    let Some(outcome) = outcome else { return Err(Failure::refused("interrupted")) };
    let report = Report::new(&source, against.as_ref(), outcome, started.elapsed());
    say(&if arguments.json { report.json() } else { report.text() });
    Ok(if report.is_accepted() { ExitStatus::Fine } else { ExitStatus::Refused })
}

/// Tries both; a source to compare with that cannot serve is said to be that.
async fn run(
    trials: &Trials,
    source: &SourceUri,
    against: Option<&SourceUri>,
) -> Result<Tried, Refusal> {
    let beside = match against {
        None => None,
        Some(uri) => {
            let tried = trials.run(uri, None, |part| tell(uri, &part)).await;
            Some(tried.map_err(|Refusal { kind, message }| {
                kind.because(format!("--against {uri}: {message}"))
            })?)
        }
    };
    trials.run(source, beside.as_ref(), |part| tell(source, &part)).await
}

fn tell(source: &SourceUri, part: &Part) {
    let line = match part {
        Part::Staged { version, bytes } => {
            format!("{source}: staged version {}, {bytes} bytes", report::short(version))
        }
        Part::Passed(part) => format!("{source}: passed {part}"),
    };
    let _ = writeln!(io::stderr(), "{line}");
}

fn source(text: &str) -> Result<SourceUri, Failure> {
    let here = env::current_dir().map_err(|error| Failure::internal(error.to_string()))?;
    SourceUri::parse_in(&here, text).map_err(|error| Failure::configuration(error.to_string()))
}

fn executable(arguments: &CheckArguments) -> Result<WorkerExecutable, Failure> {
    let file = config::executable_file;
    let library = file("--onnxruntime", arguments.onnxruntime.clone(), "libonnxruntime.so")?;
    let binary = file("--worker-binary", arguments.worker_binary.clone(), "onnxd-worker")?;
    let confined = !arguments.no_sandbox.unwrap_or(false);
    WorkerExecutable::open(&binary, &library, confined)
        .map_err(|error| Failure::configuration(format!("--worker-binary: {error}")))
}

/// As `onnxd serve` with the same settings has them on this machine.
fn limits(arguments: &CheckArguments) -> Result<CheckLimits, Failure> {
    let settings = ServeArguments {
        check_timeout: arguments.check_timeout,
        check_memory: arguments.check_memory,
        request_timeout: arguments.request_timeout,
        min_cosine: arguments.min_cosine,
        strict: arguments.strict,
        ..ServeArguments::default()
    };
    let workers = match arguments.workers {
        Some(count) => count.get(),
        None => machine::usable_cpus()?.len(),
    };
    let limits = config::check_limits(&settings);
    Ok(CheckLimits { worker_bytes: machine::worker_share(workers), ..limits })
}
