//! All of the command `onnxd`, which serves ONNX models on CPUs and replaces them while it serves.
//! Its one door is [`main`]; it is a library so that fuzz targets reach its parsers.
//!
//! `onnxd serve` is the supervisor: it accepts HTTP (`http`) and gRPC (`grpc`), hands items to
//! pinned worker processes (`dispatch`, `pool`) and leads models through their updates (`models`).
//! The other commands (`cli`) talk to a running supervisor over its admin socket. This crate links
//! neither ONNX Runtime nor a tokenizer, and parses no model file.

mod cli;
mod config;
mod confinement;
mod descriptors;
mod dispatch;
mod grpc;
mod http;
mod inherited;
mod metrics;
mod models;
mod oip;
mod pool;
#[cfg(any(test, fuzzing))]
pub mod properties;
mod serve;
mod signals;
mod systemd;

use std::process::ExitCode;

use clap::Parser;
use onnxd_proto::exit::ExitStatus;

use crate::cli::{Cli, Command};

/// The command, from its arguments to its exit code.
pub fn main() -> ExitCode {
    // Before anything else: a SIGHUP that comes while we start must wait, not end us.
    signals::hold_back();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return cli::print_usage(&message),
    };
    let status = match cli.command {
        Command::Serve(arguments) => serve::main(*arguments),
        Command::Update(arguments) => cli::update::main(&arguments),
        Command::Rollback(arguments) => cli::update::rollback(&arguments),
        Command::Unload(arguments) => cli::update::unload(&arguments),
        Command::Status(arguments) => cli::status::main(&arguments),
    };
    status.unwrap_or_else(|failure| failure.report()).into()
}

/// Why a command ended, and with which exit code: the one table from error to exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    status: ExitStatus,
    message: String,
}

impl Failure {
    /// The configuration cannot work; the message says what to change.
    pub(crate) fn configuration(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Configuration, message: message.into() }
    }

    /// The request was understood and refused.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Refused, message: message.into() }
    }

    /// All workers failed for good.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Unavailable, message: message.into() }
    }

    /// A fault of our own or of the machine.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Internal, message: message.into() }
    }

    fn report(self) -> ExitStatus {
        cli::complain(&format!("onnxd: {}", self.message));
        self.status
    }
}
