//! Arguments of the commands other than `serve`, which are clients of a server or need none.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::ValueEnum;
use onnxd_proto::{
    domain::{Load, model_name::ModelName},
    generation::Generation,
};

use crate::config::{boolean, cosine, count, generation, mebibytes, seconds};

/// Arguments of `onnxd check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    /// Model to test, DIR or a URI such as hf://ORG/NAME
    ///
    /// Takes the same URIs as --model of onnxd serve. Append ?file=PATH or ?variant=NAME if the directory has several model files.
    ///
    /// Example: onnxd check './candidate?variant=int8'
    #[arg(value_name = "DIR|URI")]
    pub source: String,
    /// Version to compare with, DIR or a URI
    ///
    /// Also tests whether an update from that version to this model would be accepted.
    ///
    /// Example: --against ./released
    #[arg(long, value_name = "DIR|URI")]
    pub against: Option<String>,
    /// Minimum cosine to the embeddings of --against [default: none]
    ///
    /// Refuses the model if its embeddings of fixed texts differ more.
    ///
    /// Example: --against ./released --min-cosine 0.98
    #[arg(long, value_name = "COSINE", value_parser = cosine, requires = "against")]
    pub min_cosine: Option<f64>,
    /// Refuse a model that needs a guess [default: false]
    ///
    /// Also refuses a model whose longest text must be shortened to fit memory or time.
    ///
    /// Example: --strict
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
    ///
    /// For scripts. Without it the result is text, whose format may change.
    ///
    /// Example: --json
    #[arg(long)]
    pub json: bool,
    /// ONNX Runtime's shared library [default: libonnxruntime.so]
    ///
    /// Needs version 1.24 or newer. The default is libonnxruntime.so in the directory of the onnxd executable.
    ///
    /// Example: --onnxruntime /usr/lib/libonnxruntime.so
    #[arg(long, value_name = "PATH", env = "ONNXD_ONNXRUNTIME")]
    pub onnxruntime: Option<PathBuf>,
    /// Executable of the workers [default: onnxd-worker]
    ///
    /// Must be from the same build as onnxd. The default is onnxd-worker in the directory of the onnxd executable.
    ///
    /// Example: --worker-binary /usr/lib/onnxd/onnxd-worker
    #[arg(long, value_name = "PATH", env = "ONNXD_WORKER_BINARY")]
    pub worker_binary: Option<PathBuf>,
    /// Executable of the fetcher [default: onnxd-fetch]
    ///
    /// Only sources on other servers need it. The default is onnxd-fetch in the directory of the onnxd executable.
    ///
    /// Example: --fetch-binary /usr/lib/onnxd/onnxd-fetch
    #[arg(long, value_name = "PATH", env = "ONNXD_FETCH_BINARY")]
    pub fetch_binary: Option<PathBuf>,
    /// Seconds that the check may take [default: 120]
    ///
    /// Raise it for large models.
    ///
    /// Example: --check-timeout 300
    #[arg(long, value_name = "SECONDS", value_parser = seconds, env = "ONNXD_CHECK_TIMEOUT")]
    pub check_timeout: Option<u64>,
    /// Memory for the check, in MiB [default: 4096]
    ///
    /// It also limits the longest text that the model accepts.
    ///
    /// Example: --check-memory 8192
    #[arg(long, value_name = "MIB", value_parser = mebibytes, env = "ONNXD_CHECK_MEMORY")]
    pub check_memory: Option<u64>,
    /// Request timeout of the intended server, in seconds [default: 30]
    ///
    /// The longest text may take at most half of it.
    ///
    /// Example: --request-timeout 60
    #[arg(long, value_name = "SECONDS", value_parser = seconds, env = "ONNXD_REQUEST_TIMEOUT")]
    pub request_timeout: Option<u64>,
    /// Workers of the intended server [default: one per usable CPU]
    ///
    /// They share the machine's memory, which limits the longest text.
    ///
    /// Example: --workers 4
    #[arg(long, value_name = "N", value_parser = count::<NonZeroUsize>, env = "ONNXD_WORKERS")]
    pub workers: Option<NonZeroUsize>,
    /// Run the check without a sandbox [default: false]
    ///
    /// A malicious model can then do whatever your user account can. Use it only on kernels that cannot filter system calls.
    ///
    /// Example: --no-sandbox
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

/// Arguments of `onnxd source`.
#[derive(Debug, clap::Args)]
pub(crate) struct SourceArguments {
    /// Source to read, a URI such as hf://ORG/NAME, or DIR
    ///
    /// Takes the same URIs as --model of onnxd serve, with ?file=PATH or ?variant=NAME.
    ///
    /// Example: onnxd source hf://org/minilm
    #[arg(value_name = "URI")]
    pub source: String,
    #[command(flatten)]
    pub reading: ReadingArguments,
}

/// Arguments of `onnxd fetch`.
#[derive(Debug, clap::Args)]
pub(crate) struct FetchArguments {
    /// Source to download, a URI such as hf://ORG/NAME, or DIR
    ///
    /// Takes the same URIs as --model of onnxd serve, with ?file=PATH or ?variant=NAME.
    ///
    /// Example: onnxd fetch hf://org/minilm ./minilm
    #[arg(value_name = "URI")]
    pub source: String,
    /// Directory to download into
    ///
    /// It must be missing or empty.
    ///
    /// Example: onnxd fetch hf://org/minilm ./minilm
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    #[command(flatten)]
    pub reading: ReadingArguments,
}

/// Arguments of commands that read a source without a server.
#[derive(Debug, clap::Args)]
pub(crate) struct ReadingArguments {
    /// Print one line of JSON
    ///
    /// For scripts. Without it the result is text, whose format may change.
    ///
    /// Example: --json
    #[arg(long)]
    pub json: bool,
    /// Executable of the workers [default: onnxd-worker]
    ///
    /// It finds the files that a model needs. Must be from the same build as onnxd. The default is onnxd-worker in the directory of the onnxd executable.
    ///
    /// Example: --worker-binary /usr/lib/onnxd/onnxd-worker
    #[arg(long, value_name = "PATH", env = "ONNXD_WORKER_BINARY")]
    pub worker_binary: Option<PathBuf>,
    /// Executable of the fetcher [default: onnxd-fetch]
    ///
    /// Only sources on other servers need it. The default is onnxd-fetch in the directory of the onnxd executable.
    ///
    /// Example: --fetch-binary /usr/lib/onnxd/onnxd-fetch
    #[arg(long, value_name = "PATH", env = "ONNXD_FETCH_BINARY")]
    pub fetch_binary: Option<PathBuf>,
    /// Read the source without a sandbox [default: false]
    ///
    /// A malicious server or model can then do whatever your user account can. Use it only on kernels that cannot filter system calls.
    ///
    /// Example: --no-sandbox
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

/// Arguments of `onnxd update`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArguments {
    /// Name of the served model
    ///
    /// `onnxd status` lists the models. May be absent with --cancel, which is then for all models.
    ///
    /// Example: onnxd update minilm
    #[arg(required_unless_present = "cancel")]
    pub model: Option<ModelName>,
    /// End the updates that run or wait, and start none
    ///
    /// Ends downloads and checks as well. The serving generation stays. Exits with 1 if there is no such update, or if
    /// its commit is already decided.
    ///
    /// Example: onnxd update --cancel minilm
    #[arg(long, conflicts_with_all = ["from", "load", "force", "allow_dimension_change", "reuse_index"])]
    pub cancel: bool,
    /// Source of the new version [default: the source given at start]
    ///
    /// Takes DIR or file:///DIR, relative to the current directory.
    ///
    /// Example: --from /srv/models/minilm-v2
    #[arg(long, value_name = "URI")]
    pub from: Option<String>,
    /// When workers load the new version
    ///
    /// A lazy update is committed sooner, but the next request of each worker waits for the load.
    ///
    /// Example: --load lazy
    #[arg(long, value_enum, default_value_t)]
    pub load: LoadArgument,
    /// Accept a version that failed its probation or lacks files
    ///
    /// A version that failed is quarantined. One that lacks files of the serving version, such as the pooling, may be
    /// half copied. Updates refuse both without this flag.
    ///
    /// Example: --force
    #[arg(long)]
    pub force: bool,
    /// Accept a version with another embedding dimension
    ///
    /// Vectors stored earlier cannot be compared with those of the new version.
    ///
    /// Example: --allow-dimension-change
    #[arg(long)]
    pub allow_dimension_change: bool,
    /// Keep the vectors of the model's collections
    ///
    /// Without this flag, documents are embedded again, unless the check shows that both versions compute the same
    /// vectors. Pass it only if the new version embeds into the same space: otherwise searches find the wrong documents.
    /// It is refused if the check measures a mean cosine below 0.9, unless --force is given.
    ///
    /// Example: --reuse-index
    #[arg(long)]
    pub reuse_index: bool,
    #[command(flatten)]
    pub admin: AdminArguments,
}

/// Arguments of `onnxd unload`.
#[derive(Debug, clap::Args)]
pub(crate) struct UnloadArguments {
    /// Name of the served model
    ///
    /// `onnxd status` lists the models.
    ///
    /// Example: onnxd unload minilm
    pub model: ModelName,
    #[command(flatten)]
    pub admin: AdminArguments,
}

/// Arguments of `onnxd rollback`.
#[derive(Debug, clap::Args)]
pub(crate) struct RollbackArguments {
    /// Name of the served model
    ///
    /// `onnxd status` lists the models.
    ///
    /// Example: onnxd rollback minilm
    pub model: ModelName,
    /// Generation whose version to serve [default: the previous]
    ///
    /// The default is the newest generation with another version. `onnxd status` and the log show generations.
    ///
    /// Example: --to 3
    #[arg(long, value_name = "GENERATION", value_parser = generation)]
    pub to: Option<Generation>,
    #[command(flatten)]
    pub admin: AdminArguments,
}

/// Arguments of `onnxd status`.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub admin: AdminArguments,
}

/// Arguments of `onnxd log`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArguments {
    /// New filter, a level or TARGET=LEVEL [default: unchanged]
    ///
    /// Levels are off, error, warn, info, debug and trace. Separate several parts with commas.
    ///
    /// Example: onnxd log info,onnxd_worker=debug
    #[arg(value_name = "LEVEL")]
    pub filter: Option<String>,
    #[command(flatten)]
    pub admin: AdminArguments,
}

/// Arguments of all commands that call a server.
#[derive(Debug, clap::Args)]
pub(crate) struct AdminArguments {
    /// Admin socket of the server [default: onnxd-admin.sock]
    ///
    /// By default looks for onnxd-admin.sock in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR, /run/onnxd and /run.
    ///
    /// Example: --admin-socket /run/onnxd/onnxd-admin.sock
    #[arg(long, value_name = "PATH", env = "ONNXD_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,
    /// Print one line of JSON
    ///
    /// For scripts. Without it the result is text, whose format may change.
    ///
    /// Example: --json
    #[arg(long)]
    pub json: bool,
    /// Seconds to wait for the answer
    ///
    /// A server that does not answer in time is stopped, frozen or overloaded. An update, a rollback and an unload may
    /// take longer: they then ask whether the server still answers, and say so if it does not.
    ///
    /// Example: --timeout 60
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: u32,
}

/// The values of `--load`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum LoadArgument {
    /// Load before the commit, one worker at a time, while the old version serves
    #[default]
    Ahead,
    /// Each worker loads after the commit, before its next inference
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
