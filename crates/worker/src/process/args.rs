//! The command line. Only the supervisor, tests and debugging start this executable; its arguments
//! are not a stable interface.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand};

/// Runs models for onnxd
#[derive(Debug, Parser)]
#[command(name = "onnxd-worker", version)]
pub(crate) struct Args {
    /// Run without a sandbox
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    /// Run at a lower priority than processes that serve
    #[arg(long)]
    pub(crate) background: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve requests from the supervisor
    ///
    /// Descriptor 3 is the socket to the supervisor, descriptor 4 the control page.
    Serve {
        /// The worker's number, for the log
        #[arg(long)]
        worker: u32,
        /// The CPU to run on
        #[arg(long)]
        cpu: u16,
    },
    /// Check a version
    ///
    /// Prints a line of JSON for each part that passes, then the verdict. Exits 0 if the version
    /// can serve, else 1.
    Check(CheckArgs),
    /// Load ONNX Runtime
    ///
    /// Prints a line of JSON with this build and the reason if the library cannot be loaded, which
    /// sets the exit code as well.
    Probe {
        /// ONNX Runtime's shared library
        #[arg(long)]
        onnxruntime: PathBuf,
    },
    /// List the model files of a source
    ///
    /// Prints a line of JSON that names the model file and the files with its weights, or says why
    /// there is no usable model. Exits 0 if there is a model, else 1.
    List(ListArgs),
    /// Make sure that a version has a valid compiled form
    ///
    /// Prints a line of JSON. Exits 0 even if the version cannot be compiled, and prints the
    /// reason.
    Compile {
        /// ONNX Runtime's shared library
        #[arg(long)]
        onnxruntime: PathBuf,
        /// The version's directory
        #[arg(long)]
        version_dir: PathBuf,
        /// The directory of the version's compiled forms
        #[arg(long)]
        compiled_dir: PathBuf,
    },
}

#[derive(Debug, Group)]
pub(crate) struct ListArgs {
    /// The source's directory. Default: the directory on standard input
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// The source is a snapshot in the hub's cache, with its files in `../../blobs`
    #[arg(long)]
    pub(crate) hub_cache: bool,
    /// The model file to use, relative to the source
    #[arg(long)]
    pub(crate) file: Option<String>,
    /// The kind of model file to use
    #[arg(long, conflicts_with = "file")]
    pub(crate) variant: Option<String>,
}

#[derive(Debug, Group)]
pub(crate) struct CheckArgs {
    /// ONNX Runtime's shared library
    #[arg(long)]
    pub(crate) onnxruntime: PathBuf,
    /// The version's directory
    #[arg(long)]
    pub(crate) version_dir: PathBuf,
    /// Where to write the compiled form
    #[arg(long)]
    pub(crate) compiled_dir: Option<PathBuf>,
    /// The directory of the serving version's compiled forms, to compare with
    #[arg(long)]
    pub(crate) serving_compiled_dir: Option<PathBuf>,
    /// Refuse a version whose embeddings have a lower cosine similarity to the serving version's
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) min_cosine: Option<f64>,
    /// Memory that the check may use
    #[arg(long)]
    pub(crate) memory_limit_bytes: Option<u64>,
    /// CPU time and wall-clock time that the check may use
    #[arg(long)]
    pub(crate) cpu_limit_seconds: Option<u64>,
    /// Memory that each worker has for one text
    #[arg(long)]
    pub(crate) worker_limit_bytes: Option<u64>,
    /// CPU time that one text may take, in milliseconds
    #[arg(long)]
    pub(crate) text_limit_millis: Option<u64>,
    /// Refuse a version that needs guesses, or whose longest text does not fit
    #[arg(long)]
    pub(crate) strict: bool,
}
