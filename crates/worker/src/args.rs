//! The command line. Only the supervisor, tests and people who debug start this executable; its
//! arguments are no stable interface.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// The process of onnxd that runs models.
#[derive(Debug, Parser)]
#[command(name = "onnxd-worker", version)]
pub(crate) struct Args {
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
    /// Try a version and print the verdict as one line of JSON. Exits 0 if it can serve, else 1.
    Check {
        /// ONNX Runtime's shared library.
        #[arg(long)]
        onnxruntime: PathBuf,
        /// The version's directory.
        #[arg(long)]
        version_dir: PathBuf,
    },
}
