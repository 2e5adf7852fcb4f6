//! The command line. Only the supervisor, tests and people who debug start this executable; its
//! arguments are no stable interface.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand};

/// The process of onnxd that runs models.
#[derive(Debug, Parser)]
#[command(name = "onnxd-worker", version)]
pub(crate) struct Args {
    /// Do not confine this process.
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Answer what the supervisor asks for over the socket that is descriptor 3. Descriptor 4
    /// is the control page.
    Serve {
        /// The worker's number, for the log.
        #[arg(long)]
        worker: u32,
        /// The CPU to run on.
        #[arg(long)]
        cpu: u16,
    },
    /// Try a version; print a line of JSON for each part that passes, and at last the verdict.
    /// Exits 0 if it can serve, else 1.
    Check(CheckArgs),
    /// Print a line of JSON that names the model file of a source and the files with its weights,
    /// or says why there is none to take. Exits 0 if there is one, else 1.
    List(ListArgs),
    /// See to it that a version has a sound compiled form. Exits 0 also if it can have none, and
    /// says why in a line of JSON.
    Compile {
        /// ONNX Runtime's shared library.
        #[arg(long)]
        onnxruntime: PathBuf,
        /// The version's directory.
        #[arg(long)]
        version_dir: PathBuf,
        /// The directory of the version's compiled forms.
        #[arg(long)]
        compiled_dir: PathBuf,
    },
}

#[derive(Debug, Group)]
pub(crate) struct ListArgs {
    /// The source's directory; without it, standard input is one.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// The source is a snapshot in the hub's cache, whose files are in `../../blobs`.
    #[arg(long)]
    pub(crate) hub_cache: bool,
    /// The model file to take, relative to the source.
    #[arg(long)]
    pub(crate) file: Option<String>,
    /// The kind of model file to take.
    #[arg(long, conflicts_with = "file")]
    pub(crate) variant: Option<String>,
}

#[derive(Debug, Group)]
pub(crate) struct CheckArgs {
    /// ONNX Runtime's shared library.
    #[arg(long)]
    pub(crate) onnxruntime: PathBuf,
    /// The version's directory.
    #[arg(long)]
    pub(crate) version_dir: PathBuf,
    /// Where the compiled form is to be left.
    #[arg(long)]
    pub(crate) compiled_dir: Option<PathBuf>,
    /// The directory of the serving version's compiled forms, to compare with.
    #[arg(long)]
    pub(crate) serving_compiled_dir: Option<PathBuf>,
    /// Refuse a version whose embeddings are further from the serving version's than this.
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) min_cosine: Option<f64>,
    /// Memory that the check may use.
    #[arg(long)]
    pub(crate) memory_limit_bytes: Option<u64>,
    /// CPU time, and time on the clock, that the check may use.
    #[arg(long)]
    pub(crate) cpu_limit_seconds: Option<u64>,
    /// Memory that each worker has for one text.
    #[arg(long)]
    pub(crate) worker_limit_bytes: Option<u64>,
    /// CPU time that one text may take, in milliseconds.
    #[arg(long)]
    pub(crate) text_limit_millis: Option<u64>,
    /// Refuse a version about which something has to be guessed, or whose longest text does not fit.
    #[arg(long)]
    pub(crate) strict: bool,
}
