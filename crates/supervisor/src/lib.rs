//! All of the command `onnxd`, which serves ONNX models on CPUs and replaces them while it serves.
//! Its one door is [`main`]; it is a library so that fuzz targets reach its parsers.
//!
//! `onnxd serve` is the supervisor: it accepts connections (`transport`), speaks each client's contract
//! over HTTP and gRPC (`api`), and leaves inference and updates to the crate `onnxd-engine`.
//! The other commands (`cli`) talk to a running supervisor over its admin socket, but for `onnxd check`,
//! which tries a model without one. This crate links neither ONNX Runtime nor a tokenizer, and parses no model file.

mod admin;
mod api;
mod cli;
mod config;
mod process;
#[cfg(any(test, fuzzing))]
pub mod properties;
mod serve;
mod transport;

use std::process::ExitCode;

use crate::cli::Command;

/// The command, from its arguments to its exit code.
pub fn main() -> ExitCode {
    // Before anything else: a SIGHUP that comes while we start must wait, not end us.
    process::signals::hold_back();
    let (cli, mut origins) = match cli::parse() {
        Ok(parsed) => parsed,
        Err(message) => return cli::print_usage(&message),
    };
    let status = match cli.command {
        Command::Serve(arguments) => serve::main(*arguments, &mut origins),
        Command::Check(arguments) => cli::check::main(&arguments),
        Command::Update(arguments) => cli::update::main(&arguments),
        Command::Rollback(arguments) => cli::update::rollback(&arguments),
        Command::Unload(arguments) => cli::update::unload(&arguments),
        Command::Status(arguments) => cli::status::main(&arguments),
        Command::Openapi => cli::documents::openapi(),
        Command::Completions { shell } => cli::documents::completions(shell),
        Command::Man { directory } => cli::documents::man(&directory),
        Command::Reference => cli::documents::reference(),
    };
    status.unwrap_or_else(|failure| cli::report(&origins.explain(failure))).into()
}
