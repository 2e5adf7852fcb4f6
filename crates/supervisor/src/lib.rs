//! The command `onnxd`. [`main`] is its only entry point; it is a library so that fuzz targets reach its parsers.
//!
//! `onnxd serve` runs the supervisor. It accepts connections (`transport`), serves each contract over HTTP and
//! gRPC (`api`), and delegates inference and updates to the crate `onnxd-engine`. The other commands (`cli`) call a
//! running supervisor over its admin socket, except those that need none, such as `onnxd check`. This crate links neither ONNX
//! Runtime nor a tokenizer, and parses no model file.

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

use onnxd_proto::exit::Failure;

use crate::{cli::Command, process::init};

/// Runs the command and returns its exit code.
pub fn main() -> ExitCode {
    // Before anything else: a SIGHUP during start must wait, not terminate the process.
    process::signals::block();
    let (cli, mut origins) = match cli::parse() {
        Ok(parsed) => parsed,
        Err(message) => return cli::print_usage(&message),
    };
    if matches!(cli.command, Command::Serve(_)) && init::is_needed() {
        return init::run().unwrap_or_else(|error| {
            let message = format!("PID 1 cannot start the supervisor: {error}");
            cli::report(&Failure::internal(message)).into()
        });
    }
    if matches!(cli.command, Command::Serve(_)) {
        process::allocator::limit_arenas();
    }
    let status = match cli.command {
        Command::Serve(arguments) => serve::main(*arguments, &mut origins),
        Command::Check(arguments) => cli::check::main(&arguments),
        Command::Update(arguments) => cli::update::main(&arguments),
        Command::Rollback(arguments) => cli::update::rollback(&arguments),
        Command::Unload(arguments) => cli::update::unload(&arguments),
        Command::Status(arguments) => cli::status::main(&arguments),
        Command::Log(arguments) => cli::log::main(&arguments),
        Command::Source(arguments) => cli::source::main(&arguments),
        Command::Fetch(arguments) => cli::source::fetch(&arguments),
        Command::State { command } => cli::state::main(command, &mut origins),
        Command::Openapi => cli::documents::openapi(),
        Command::Completions { shell } => cli::documents::completions(shell),
        Command::Man { directory } => cli::documents::man(&directory),
        Command::Reference => cli::documents::reference(),
    };
    status.unwrap_or_else(|failure| cli::report(&origins.explain(failure))).into()
}
