//! `onnxd-bench-runtime measure`: ONNX Runtime without a server, as the benchmark compares onnxd
//! with it. One pinned process with one thread, the model as its author made it, and texts that were
//! tokenized before. Prints a line when it is ready, begins when it reads one, and prints what it
//! measured.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use onnxd_worker::bench;
use serde::Serialize;

mod measure;

/// Runs models without onnxd, to compare it with.
#[derive(Debug, Parser)]
#[command(name = "onnxd-bench-runtime", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run texts without a server: print a line when ready, begin when one is read, and print what
    /// was measured.
    Measure(MeasureArgs),
}

#[derive(Debug, Args)]
struct MeasureArgs {
    /// ONNX Runtime's shared library.
    #[arg(long)]
    onnxruntime: PathBuf,
    /// The version's directory.
    #[arg(long)]
    version_dir: PathBuf,
    /// A file with a JSON list of texts.
    #[arg(long)]
    texts: PathBuf,
    /// The CPU to run on.
    #[arg(long)]
    cpu: u16,
    /// Texts of one call.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Texts that are sorted by length together; 0 is all.
    #[arg(long, default_value_t = 0)]
    window: usize,
    /// How long to run.
    #[arg(long)]
    seconds: f64,
}

fn main() -> ExitCode {
    let Command::Measure(args) = Cli::parse().command;
    let measured = bench::prepare(args.cpu)
        .and_then(|()| measure::measure(&args, || print(&"ready")))
        .and_then(|measurement| print(&measurement).map_err(|error| error.to_string()));
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Where not even this can be written, the exit code still says it.
            let _ = writeln!(io::stderr(), "onnxd-bench-runtime: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Prints one line of JSON, so that it can be read at once.
fn print(line: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(line)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
