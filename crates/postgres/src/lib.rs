//! The library behind `onnxd-postgres`, the process that keeps the collections of documents in the
//! user's PostgreSQL with pgvector, and searches in them. The supervisor starts it instead of
//! `onnxd-index`, with a socket as standard input, and speaks [`onnxd_proto::search`] with it.
//! Confined: it reaches the database and no files. The address, which may contain a password, is in
//! the environment, where only the same user could read it.
//!
//! Imports point one way: {`probe`, `serving`} → {`catalog`, `listener`} → `collection` → {`existing`,
//! `filter`, `payload`} → `pool` → {`schema`, `tls`} → {`address`, `failure`}.

mod address;
mod catalog;
mod collection;
mod existing;
mod failure;
mod filter;
mod listener;
mod payload;
mod pool;
mod probe;
mod schema;
mod serving;
mod tls;

use std::{
    env,
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    process::ExitCode,
};

use nix::{
    sys::{prctl, signal::Signal},
    unistd::getppid,
};
use onnxd_proto::{exit::ExitStatus, search::DatabaseProbe};
use onnxd_sandbox::{self as sandbox, Limits, Network, SandboxError, files::Files};
use onnxd_telemetry::log;

use crate::address::Address;

/// The variable with the address of the database.
const ADDRESS: &str = "ONNXD_SEARCH_URL";

const USAGE: &str = "\
onnxd-postgres keeps collections of documents in PostgreSQL for onnxd, which starts it. Usage: \
ONNXD_SEARCH_URL=postgres://… onnxd-postgres [--no-sandbox], with a socket as standard input. \
With --probe, it prints whether it could. Options: --version.\n";

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    let parent = getppid();
    // The supervisor starts this executable by descriptor, whose number would be its name in ps(1).
    let _ = prctl::set_name(c"onnxd-postgres");
    let (mut confined, mut probes) = (true, false);
    for argument in env::args_os().skip(1) {
        match argument.to_str() {
            Some("--no-sandbox") => confined = false,
            Some("--probe") => probes = true,
            Some("--version") => {
                let _ = writeln!(io::stdout(), "onnxd-postgres {}", env!("CARGO_PKG_VERSION"));
                return ExitStatus::Success.into();
            }
            _ => return usage(),
        }
    }
    let Ok(url) = env::var(ADDRESS) else { return usage() };
    if let Err(error) = log::init(None) {
        log::print_error(&error.to_string());
        return ExitStatus::Configuration.into();
    }
    // If the supervisor is gone already, the signal would never come.
    if prctl::set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != parent {
        return ExitStatus::Internal.into();
    }
    if probes {
        let found = probe(&url, confined).unwrap_or_else(DatabaseProbe::Refused);
        let printed = serde_json::to_string(&found).map(|text| writeln!(io::stdout(), "{text}"));
        return match printed {
            Ok(Ok(())) => ExitStatus::Success.into(),
            _ => ExitStatus::Internal.into(),
        };
    }
    match run(&url, confined) {
        Ok(()) => ExitStatus::Success.into(),
        Err(error) => {
            log::print_error(&format!("collections in PostgreSQL cannot be served: {error}"));
            ExitStatus::Configuration.into()
        }
    }
}

fn usage() -> ExitCode {
    let _ = io::stderr().write_all(USAGE.as_bytes());
    ExitStatus::Usage.into()
}

fn run(url: &str, confined: bool) -> io::Result<()> {
    let socket = socket()?;
    let (address, tls) = begin(url, confined).map_err(io::Error::other)?;
    serving::serve(socket, address, tls)
}

fn probe(url: &str, confined: bool) -> Result<DatabaseProbe, String> {
    let (address, tls) = begin(url, confined)?;
    Ok(probe::run(&address, &tls))
}

/// Reads the URL and the certificates, and confines the process.
fn begin(url: &str, confined: bool) -> Result<(Address, tls::Connector), String> {
    let address = Address::parse(url)?;
    if confined && address.is_local_socket() {
        return Err(
            "the URL names a local socket, which a confined process cannot open; connect to 127.0.0.1, or run without confinement (--no-sandbox)"
                .to_owned(),
        );
    }
    // Certificates are files, which a confined process cannot read.
    let tls = tls::Connector::new(&address)?;
    sandbox::prefer_oom_kill();
    confine(confined).map_err(|error| error.to_string())?;
    Ok((address, tls))
}

/// Takes the socket that the supervisor passed.
fn socket() -> io::Result<UnixStream> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.peer_addr().map_err(|_| io::Error::other("standard input is not a connected socket"))?;
    Ok(socket)
}

fn confine(confined: bool) -> Result<(), SandboxError> {
    sandbox::limit(Limits::default())?;
    if confined {
        sandbox::enter_with(Network::Outgoing)?;
        // An exporter has the same needs: names of machines, and connections.
        Files::of_exporter()?.enter()?;
    }
    Ok(())
}
