//! The command line: what each command takes, and how the terminal is written to. `serve` lives
//! in [`crate::serve`]; the commands here are clients of the admin socket, but for [`check`], which
//! needs no server.

pub(crate) mod check;
pub(crate) mod client;
mod progress;
pub(crate) mod status;
pub(crate) mod update;

use std::{
    io::{self, Write},
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand, ValueEnum};
use onnxd_proto::domain::Load;
use onnxd_proto::{
    domain::model_name::ModelName,
    exit::{ExitStatus, Failure},
    generation::Generation,
};
use onnxd_telemetry::log;

use crate::config::{ServeArguments, boolean};

/// Serves ONNX models on CPUs and replaces them while it serves.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve models over HTTP until SIGTERM; SIGHUP stages every model's source again
    Serve(Box<ServeArguments>),
    /// Try a model without a server: what it is, what it takes, what it costs. Exits 0 if it can be
    /// served, else 1
    Check(CheckArguments),
    /// Replace a model while it is served; returns when the new generation serves
    Update(UpdateArguments),
    /// Serve an earlier version of a model again, as a new generation
    Rollback(RollbackArguments),
    /// Serve a model no more and give its memory back; `update` loads it again
    Unload(UnloadArguments),
    /// Show models, generations and workers
    Status(StatusArguments),
    /// Print the OpenAPI document of the HTTP interface
    Openapi,
}

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

#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArguments {
    /// The served model
    pub model: ModelName,
    /// The source of the new version, DIR or file:///DIR [default: the source the model was
    /// started with]
    #[arg(long, value_name = "URI")]
    pub from: Option<String>,
    /// When workers load the new version
    #[arg(long, value_enum, default_value_t)]
    pub load: LoadArgument,
    /// Also serve a version that failed its probation before
    #[arg(long)]
    pub force: bool,
    /// Also serve a version whose embeddings have another dimension; vectors of both cannot be
    /// compared
    #[arg(long)]
    pub allow_dimension_change: bool,
    #[command(flatten)]
    pub admin: AdminArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UnloadArguments {
    /// The served model
    pub model: ModelName,
    #[command(flatten)]
    pub admin: AdminArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArguments {
    /// The served model
    pub model: ModelName,
    /// The generation whose version is served again [default: the newest that had another version]
    #[arg(long, value_name = "GENERATION")]
    pub to: Option<Generation>,
    #[command(flatten)]
    pub admin: AdminArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub admin: AdminArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AdminArguments {
    /// The supervisor's admin socket [default: onnxd-admin.sock in $RUNTIME_DIRECTORY,
    /// $XDG_RUNTIME_DIR or /run/onnxd]
    #[arg(long, value_name = "PATH", env = "ONNXD_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `--load` of `onnxd update`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum LoadArgument {
    /// Before the commit, one worker after the other, beside what it serves
    #[default]
    Ahead,
    /// Each worker when it notices the commit, before its next inference
    Lazy,
}

impl From<LoadArgument> for Load {
    fn from(argument: LoadArgument) -> Self {
        match argument {
            LoadArgument::Ahead => Self::Ahead,
            LoadArgument::Lazy => Self::Lazy,
        }
    }
}

/// Prints what clap has to say: help and version to standard output, errors to standard error.
pub(crate) fn print_usage(message: &clap::Error) -> ExitCode {
    // Where even this cannot be written, the exit code still tells.
    let _ = message.print();
    if message.use_stderr() { ExitStatus::Usage } else { ExitStatus::Fine }.into()
}

/// Prints why a command failed; gives its exit code.
pub(crate) fn report(failure: &Failure) -> ExitStatus {
    log::complain(&failure.message);
    failure.status
}

/// Prints the OpenAPI document.
///
/// # Errors
/// Standard output cannot be written to.
pub(crate) fn openapi() -> Result<ExitStatus, Failure> {
    let written = io::stdout().write_all(crate::api::openapi::document().as_bytes());
    // A reader may have seen enough.
    if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return Ok(ExitStatus::Fine);
    }
    let failed = |error| Failure::internal(format!("cannot write to standard output: {error}"));
    written.map(|()| ExitStatus::Fine).map_err(failed)
}

/// Writes one line of a command's result to standard output.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
