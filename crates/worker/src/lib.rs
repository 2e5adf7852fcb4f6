//! The library behind `onnxd-worker`, the process that runs models. The supervisor starts it to
//! serve over an inherited socket, to check or compile a version, or to list a source's files.
//! [`main`] is the only entry point of the executable and maps failures to exit codes; benchmarks
//! and fuzz targets use the rest.
//!
//! Imports point one way: {`serving`, `checking`} → `families` → `artifacts` → `session`, and all
//! of them → `process` → `session`. `listing` imports only `artifacts`.

mod artifacts;
pub mod bench;
mod checking;
mod families;
mod listing;
mod process;
#[cfg(any(test, fuzzing))]
pub mod properties;
mod serving;
mod session;

use std::{
    convert::Infallible,
    fs,
    io::{self, Write},
    mem::ManuallyDrop,
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::ExitCode,
    time::Instant,
};

use clap::Parser;
use nix::{
    sys::prctl,
    unistd::{Pid, getppid},
};
use onnxd_proto::{
    BUILD_ID,
    control_page::ControlPageView,
    domain::{CheckLine, ListLine, ModelChoice, Probe, RefusalKind},
    exit::ExitStatus,
};
use onnxd_sandbox::{self as sandbox, Limits, files::Files};
use onnxd_telemetry::log;
use serde::Serialize;
use serde_json::json;
use tracing::{error, info_span};

use crate::{
    artifacts::compiled::{self, Key},
    checking::{
        check,
        compile::{self, NotCompiled},
    },
    process::{
        affinity,
        args::{Args, CheckArgs, Command, ListArgs},
        fault::Fault,
        guard::{self, Guard},
        inherited, ipc, quit, resident,
    },
    serving::serve::{self, StartInfo},
    session::Runtime,
};

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    let parent = getppid();
    // The supervisor starts this executable by descriptor, whose number would be its name in ps(1) and in the
    // kernel's log. Ignore errors: it works without.
    let _ = prctl::set_name(c"onnxd-worker");
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Ignore print errors: the exit code still reports the problem.
            let _ = error.print();
            let status = if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Success };
            return status.into();
        }
    };
    if let Err(error) = log::init(None) {
        log::print_error(&error.to_string());
        return ExitStatus::Configuration.into();
    }
    let confined = !args.no_sandbox;
    if args.background {
        // About a tenth of a CPU that serving keeps busy. With less, an update of documents hardly
        // progresses, and its last ones hold back writes for seconds.
        sandbox::yield_to_serving();
    }
    match args.command {
        Command::Serve { worker, cpu } => {
            let _span = info_span!("serve", worker).entered();
            // A panic must not run ONNX Runtime's destructors while its threads still run.
            let served = panic::catch_unwind(AssertUnwindSafe(|| serve(cpu, parent, confined)));
            let Ok(Err(fault)) = served else { quit::now(ExitStatus::Internal) };
            error!(%fault, "worker stopped");
            quit::now(fault.status())
        }
        Command::Check(args) => {
            let _span = info_span!("check").entered();
            check(&args, confined, parent).into()
        }
        Command::Probe { onnxruntime } => probe(&onnxruntime, confined, parent).into(),
        Command::List(args) => {
            let _span = info_span!("list").entered();
            list(&args, confined, parent).into()
        }
        Command::Compile { onnxruntime, version_dir, compiled_dir } => {
            let _span = info_span!("compile").entered();
            // A compile on a model's first use runs while other models serve.
            sandbox::yield_to_serving();
            let files = CheckedFiles {
                version: &version_dir,
                serving: None,
                compiled: Some(&compiled_dir),
            };
            let runtime =
                prepare(&onnxruntime, Limits::default(), confined.then_some(files), parent);
            compile(runtime, &version_dir, &compiled_dir).into()
        }
    }
}

/// Serves until the supervisor closes the socket or exits.
fn serve(cpu: u16, parent: Pid, confined: bool) -> Result<Infallible, Fault> {
    // Set these before any thread starts. All threads inherit the CPU and the blocked signals,
    // including those of ONNX Runtime.
    let pinned = affinity::pin(cpu);
    guard::block_signals()?;
    let inherited = inherited::take().map_err(Fault::Inherited)?;
    // Keep the socket open until the process exits. The supervisor kills a worker whose socket has
    // closed, and would lose the exit code.
    let _socket = ManuallyDrop::new(inherited.socket.try_clone()?);
    sandbox::prefer_oom_kill();
    sandbox::limit(Limits::serving())?;
    if confined {
        sandbox::enter()?;
    }
    let page = ControlPageView::map(inherited.control_page)?;
    let guard = Guard::prepare(parent, &inherited.socket)?;
    let (receiver, sender) = ipc::split(inherited.socket)?;
    let start = StartInfo { pinned, confined, terminations: inherited.terminations };
    match serve::run(receiver, sender, start, &page, &guard) {
        Err(Fault::HungUp) => guard.end(),
        ended => ended,
    }
}

/// Checks a version. Prints a line per passed part, and always a verdict.
fn check(args: &CheckArgs, confined: bool, parent: Pid) -> ExitStatus {
    let started = Instant::now();
    sandbox::yield_to_serving();
    let files = CheckedFiles {
        version: &args.version_dir,
        serving: args.serving_compiled_dir.as_deref(),
        compiled: args.compiled_dir.as_deref(),
    };
    let files = confined.then_some(files);
    let prepared = prepare(&args.onnxruntime, limits(args), files, parent);
    let (verdict, status) = match prepared {
        Ok(runtime) => {
            let mut passed = |part: &str| drop(print(&CheckLine::Passed(part.into())));
            match check::check(&runtime, args, started, &mut passed) {
                Ok(checked) => (CheckLine::Accepted(Box::new(checked)), ExitStatus::Success),
                Err(refusal) => (CheckLine::Refused(refusal), ExitStatus::Refused),
            }
        }
        // Not the version's fault: the exit code says that this process cannot check anything.
        Err(fault) => {
            let refusal = RefusalKind::Internal.because(fault.to_string());
            (CheckLine::Refused(refusal), fault.status())
        }
    };
    print(&verdict).map_or(ExitStatus::Internal, |()| status)
}

/// Loads ONNX Runtime like a worker. Prints this build, and why a worker could not run.
fn probe(onnxruntime: &Path, confined: bool, parent: Pid) -> ExitStatus {
    let loaded: Result<(), Fault> = (|| {
        guard::die_with_parent(parent)?;
        if confined {
            sandbox::enter()?;
        }
        Runtime::open(onnxruntime)?;
        Ok(())
    })();
    let (failure, status) = match loaded {
        Ok(()) => (None, ExitStatus::Success),
        Err(fault) => (Some(fault.to_string()), fault.status()),
    };
    let build_id = BUILD_ID.to_owned();
    print(&Probe { build_id, failure }).map_or(ExitStatus::Internal, |()| status)
}

/// Lists a source. Prints its model files, or why it has no usable model.
fn list(args: &ListArgs, confined: bool, parent: Pid) -> ExitStatus {
    let (line, status) = match source_of(args, confined, parent) {
        Ok(choice) => match listing::list(Path::new("."), &choice) {
            Ok(listing) => (ListLine::Listed(Box::new(listing)), ExitStatus::Success),
            Err(refusal) => (ListLine::Refused(refusal), ExitStatus::Refused),
        },
        Err(fault) => {
            let refusal = RefusalKind::Internal.because(fault.to_string());
            (ListLine::Refused(refusal), fault.status())
        }
    };
    print(&line).map_or(ExitStatus::Internal, |()| status)
}

/// Makes the source the working directory and confines the process to it.
fn source_of(args: &ListArgs, confined: bool, parent: Pid) -> Result<ModelChoice, Fault> {
    sandbox::yield_to_serving();
    guard::die_with_parent(parent)?;
    sandbox::prefer_oom_kill();
    sandbox::limit(Limits::listing())?;
    let invalid = |reason: &str| Fault::System(io::Error::other(reason.to_owned()));
    let choice = match (&args.file, &args.variant) {
        (Some(file), _) => ModelChoice::file(file).map_err(invalid)?,
        (None, Some(name)) => ModelChoice::variant(name).map_err(invalid)?,
        (None, None) => ModelChoice::Unstated,
    };
    match &args.dir {
        Some(dir) => std::env::set_current_dir(dir)?,
        None => rustix::process::fchdir(io::stdin()).map_err(io::Error::from)?,
    }
    if confined {
        sandbox::enter()?;
        let blobs = args.hub_cache.then_some(Path::new("../../blobs"));
        Files::for_lister(Path::new("."), blobs)?.enter()?;
    }
    Ok(choice)
}

/// Compiles a version. Prints whether it has a compiled form, why not, or why it must not serve.
fn compile(runtime: Result<Runtime, Fault>, version_dir: &Path, compiled: &Path) -> ExitStatus {
    let result = runtime.map_err(|fault| fault.to_string().into()).and_then(|runtime| {
        let key = Key::new(&runtime);
        let rebuilt = compile::compile(&runtime, (version_dir, None), compiled, &key, None)?;
        Ok(json!({ "compiled": key.as_str(), "rebuilt": rebuilt }))
    });
    let line = result.unwrap_or_else(|error| match error {
        NotCompiled::Damaged(refusal) => json!({ "refused": refusal }),
        NotCompiled::Failed(reason) => json!({ "not_compiled": reason }),
    });
    print(&line).map_or(ExitStatus::Internal, |()| ExitStatus::Success)
}

/// Files that a checker may open once ONNX Runtime is loaded.
struct CheckedFiles<'a> {
    version: &'a Path,
    serving: Option<&'a Path>,
    compiled: Option<&'a Path>,
}

/// Confines this process before it loads an untrusted model. Without `files` there is no sandbox.
fn prepare(
    onnxruntime: &Path,
    limits: Limits,
    files: Option<CheckedFiles<'_>>,
    parent: Pid,
) -> Result<Runtime, Fault> {
    guard::die_with_parent(parent)?;
    sandbox::prefer_oom_kill();
    sandbox::limit(limits)?;
    let Some(CheckedFiles { version, serving, compiled }) = files else {
        return Ok(Runtime::open(onnxruntime)?);
    };
    sandbox::enter()?;
    let runtime = Runtime::open(onnxruntime)?;
    // Read these while they are still accessible.
    compiled::detect_cpu();
    resident::prepare();
    // A rule needs an existing directory. If this fails, compiling reports the reason.
    let _ = compiled.map(fs::create_dir_all);
    Files::for_checker(version, serving, compiled)?.enter()?;
    Ok(runtime)
}

fn limits(args: &CheckArgs) -> Limits {
    Limits {
        memory_bytes: args.memory_limit_bytes,
        cpu_seconds: args.cpu_limit_seconds,
        file_bytes: Some(compiled::bytes_max(&args.version_dir)),
    }
}

/// Prints one line of JSON and flushes it.
fn print(line: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(line)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
