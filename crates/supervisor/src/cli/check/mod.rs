//! Runs `onnxd check`: checks a source like an update, without a server, for example in a model's CI. Progress goes
//! to standard error, the result to standard output.

mod report;
pub(crate) mod temporary;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Instant,
};

use onnxd_engine::{
    models::{
        sources::{Sources, fetcher::Fetcher},
        update::{
            checker::CheckLimits,
            trial::{Part, TrialResult, Trials},
        },
    },
    pool::executable::WorkerExecutable,
};
use onnxd_proto::{
    domain::{Refusal, SourceUri},
    exit::{ExitStatus, Failure},
};
use onnxd_telemetry::log;

use self::report::Report;
use super::{CheckArguments, print_line};
use crate::{
    config::{self, ServeArguments},
    process::machine,
};

/// Checks the source. If there is one to compare with, checks that first.
///
/// # Errors
/// The arguments or the installation are invalid. For a model that cannot be served, returns
/// [`ExitStatus::Refused`] instead.
pub(crate) fn main(arguments: &CheckArguments) -> Result<ExitStatus, Failure> {
    log::init(None).map_err(|error| Failure::configuration(error.to_string()))?;
    let source = source(&arguments.source)?;
    let against = arguments.against.as_deref().map(self::source).transpose()?;
    let executable = executable(arguments)?;
    let limits = limits(arguments)?;
    let sandbox = !arguments.no_sandbox.unwrap_or(false);
    let read = [Some(&source), against.as_ref()];
    let fetcher = fetcher(arguments.fetch_binary.as_ref(), sandbox, &read)?;
    let sources = Sources::new(executable.clone(), fetcher);
    let started = Instant::now();
    let outcome = temporary::with_trials(
        &temporary::directory()?,
        executable,
        (sources, limits),
        async |trials| run(trials, &source, against.as_ref()).await,
    )?;
    let outcome = outcome.ok_or_else(temporary::interrupted)?;
    let report = Report::new(&source, against.as_ref(), outcome, started.elapsed());
    print_line(&if arguments.json { report.json() } else { report.text() });
    Ok(if report.is_accepted() { ExitStatus::Success } else { ExitStatus::Refused })
}

/// Checks both sources. A refusal says if it concerns the one to compare with.
async fn run(
    trials: &Trials,
    source: &SourceUri,
    against: Option<&SourceUri>,
) -> Result<TrialResult, Refusal> {
    let reference = match against {
        None => None,
        Some(uri) => {
            let tried = trials.run(uri, None, |part| report_part(uri, &part)).await;
            Some(tried.map_err(|refusal| {
                let message = format!("--against {uri}: {}", refusal.message);
                refusal.with_message(message)
            })?)
        }
    };
    trials.run(source, reference.as_ref(), |part| report_part(source, &part)).await
}

/// Prints progress.
fn report_part(source: &SourceUri, part: &Part) {
    let line = match part {
        Part::Staged { version, bytes } => {
            format!("{source}: staged version {}, {bytes} bytes", report::short(version))
        }
        Part::Passed(part) => format!("{source}: passed {part}"),
    };
    let _ = writeln!(io::stderr(), "{line}");
}

/// Parses a source, relative to the current directory.
///
/// # Errors
/// It is not a source.
pub(super) fn source(text: &str) -> Result<SourceUri, Failure> {
    config::source_uri(text).map_err(Failure::configuration)
}

fn executable(arguments: &CheckArguments) -> Result<WorkerExecutable, Failure> {
    let library = config::installed_file(
        "--onnxruntime",
        arguments.onnxruntime.clone(),
        "libonnxruntime.so",
    )?;
    let binary = config::executable_file(
        "--worker-binary",
        arguments.worker_binary.clone(),
        "onnxd-worker",
    )?;
    let confined = !arguments.no_sandbox.unwrap_or(false);
    WorkerExecutable::open(&binary, &library, confined)
        .map_err(|error| Failure::configuration(format!("--worker-binary: {error}")))
}

/// Opens the fetcher, if one of the sources needs it.
///
/// # Errors
/// It cannot be opened.
pub(super) fn fetcher(
    given: Option<&PathBuf>,
    sandbox: bool,
    sources: &[Option<&SourceUri>],
) -> Result<Option<Fetcher>, Failure> {
    let is_remote = |source: &&SourceUri| source.directory().is_none();
    if !sources.iter().copied().flatten().any(|source| is_remote(&source)) {
        return Ok(None);
    }
    let path = config::executable_file("--fetch-binary", given.cloned(), "onnxd-fetch")?;
    Fetcher::open(&path, sandbox)
        .map(Some)
        .map_err(|error| Failure::configuration(format!("--fetch-binary: {error}")))
}

/// Returns the limits that `onnxd serve` applies on this machine with the same settings.
fn limits(arguments: &CheckArguments) -> Result<CheckLimits, Failure> {
    let mut settings = ServeArguments::default();
    settings.updates.check_timeout = arguments.check_timeout;
    settings.limits.request_timeout = arguments.request_timeout;
    settings.updates.min_cosine = arguments.min_cosine;
    settings.updates.strict = arguments.strict;
    let workers = match arguments.workers {
        Some(count) => count.get(),
        None => machine::default_workers()?,
    };
    let memory_bytes =
        machine::check_memory_bytes(arguments.check_memory.map(|mebibytes| mebibytes << 20));
    let worker_bytes = machine::worker_share(workers);
    Ok(CheckLimits { memory_bytes, worker_bytes, ..config::check_limits(&settings) })
}
