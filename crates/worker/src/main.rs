//! `onnxd-worker`: the process that runs models. The supervisor starts it, either to serve over
//! an inherited socket or to check a version that is not served yet. This file is the table of
//! contents; it maps what went wrong to the exit codes that the supervisor understands.

mod affinity;
mod args;
mod check;
mod config;
mod fault;
mod group;
mod guard;
mod inherited;
mod ipc;
mod microbatch;
mod model;
mod pooling;
mod quit;
mod serve;
mod session;
mod tokenize;
mod version;

use std::{
    convert::Infallible,
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use clap::Parser;
use nix::unistd::{Pid, getppid};
use onnxd_proto::{control_page::ControlPageView, exit::ExitStatus};
use tracing::{error, info_span};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{
    args::{Args, Command},
    fault::Fault,
    guard::Guard,
};

fn main() -> ExitCode {
    let parent = getppid();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Where not even this can be printed, the exit code still says it.
            let _ = error.print();
            let status = if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Fine };
            return status.into();
        }
    };
    start_logging();
    match args.command {
        Command::Serve { worker, cpu } => {
            let _span = info_span!("serve", worker).entered();
            let Err(fault) = serve(cpu, parent);
            error!(%fault, "worker stopped");
            fault.status().into()
        }
        Command::Check { onnxruntime, version_dir } => {
            let _span = info_span!("check").entered();
            check(&onnxruntime, &version_dir, parent)
        }
    }
}

/// Serves until the supervisor closes the socket or is gone.
fn serve(cpu: u16, parent: Pid) -> Result<Infallible, Fault> {
    // These concern all threads, so they come before the first: those of ONNX Runtime, too,
    // inherit the CPU and the blocked signals.
    let pinned = affinity::pin(cpu);
    guard::block_signals()?;
    let (socket, page) = inherited::take().map_err(Fault::Inherited)?;
    let page = ControlPageView::map(page)?;
    let guard = Guard::start(parent, &socket)?;
    let (receiver, sender) = ipc::split(socket)?;
    match serve::run(receiver, sender, pinned, &page, &guard) {
        Err(Fault::HungUp) => guard.end(),
        ended => ended,
    }
}

/// Prints the verdict as one line on standard output, whatever happens.
fn check(onnxruntime: &Path, version_dir: &Path, parent: Pid) -> ExitCode {
    let (verdict, status) = check::verdict(onnxruntime, version_dir, parent);
    let line =
        serde_json::to_string(&verdict).expect("a verdict holds nothing but text and numbers");
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => status.into(),
        Err(_) => ExitStatus::Internal.into(),
    }
}

fn start_logging() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var("ONNXD_LOG")
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}
