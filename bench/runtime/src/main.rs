//! `onnxd-bench-runtime measure`: runs ONNX Runtime without a server, as the benchmark's baseline.
//! One pinned single-threaded process with the original model and pretokenized texts. Prints a line
//! when ready, starts when it reads one, and prints the measurement.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use onnxd_worker::bench;
use serde::Serialize;

mod measure;

/// Runs models without onnxd, as a baseline.
#[derive(Debug, Parser)]
#[command(name = "onnxd-bench-runtime", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs texts without a server: prints a line when ready, starts when it reads one, then prints
    /// the measurement.
    Measure(MeasureArgs),
}

#[derive(Debug, Args)]
struct MeasureArgs {
    /// ONNX Runtime's shared library
    #[arg(long)]
    onnxruntime: PathBuf,
    /// The version's directory
    #[arg(long)]
    version_dir: PathBuf,
    /// A file with a JSON list of texts
    #[arg(long)]
    texts: PathBuf,
    /// The CPU to run on
    #[arg(long)]
    cpu: u16,
    /// Texts per call
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Texts sorted by length together; 0 sorts all
    #[arg(long, default_value_t = 0)]
    window: usize,
    /// Seconds to run
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
            // Ignore the error: the exit code still reports the failure.
            let _ = writeln!(io::stderr(), "onnxd-bench-runtime: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Prints one line of JSON and flushes it.
fn print(line: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(line)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
