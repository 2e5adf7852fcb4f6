//! The library behind `onnxd-index`, the process that owns the collections of documents and searches
//! in them. The supervisor starts it with a socket as standard input and
//! speaks [`onnxd_proto::search`] with it. Confined: it uses no network, and only the files below one
//! directory.
//!
//! Imports point one way: `serving` → {`limits`, `collections`} → {`catalog`, `collection`} → {`store`, `payloads`,
//! `vectors`} → `vector`.

mod catalog;
mod collection;
mod collections;
mod fault;
mod limits;
mod payloads;
mod serving;
mod store;
mod vector;
mod vectors;

use std::{
    env,
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::{prctl, signal::Signal},
    unistd::getppid,
};
use onnxd_proto::exit::ExitStatus;
use onnxd_sandbox::{self as sandbox, Limits, SandboxError, files::Files};
use onnxd_telemetry::log;

/// Threads that search, and as many that change collections.
const THREADS: usize = 2;

const USAGE: &str = "\
onnxd-index searches collections of documents for onnxd, which starts it. Usage: onnxd-index \
--directory DIR [--no-sandbox], with a socket as standard input. Options: --version.\n";

/// The command line.
struct Arguments {
    directory: PathBuf,
    confined: bool,
}

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    let parent = getppid();
    // The supervisor starts this executable by descriptor, whose number would be its name in ps(1).
    let _ = prctl::set_name(c"onnxd-index");
    let arguments = match Arguments::parse(env::args_os().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            let _ = writeln!(io::stdout(), "onnxd-index {}", env!("CARGO_PKG_VERSION"));
            return ExitStatus::Success.into();
        }
        Err(()) => {
            let _ = io::stderr().write_all(USAGE.as_bytes());
            return ExitStatus::Usage.into();
        }
    };
    if let Err(error) = log::init(None) {
        log::print_error(&error.to_string());
        return ExitStatus::Configuration.into();
    }
    // If the supervisor is gone already, the signal would never come.
    if prctl::set_pdeathsig(Signal::SIGKILL).is_err() || getppid() != parent {
        return ExitStatus::Internal.into();
    }
    match run(&arguments) {
        Ok(()) => ExitStatus::Success.into(),
        Err(error) => {
            log::print_error(&format!("the index cannot run: {error}"));
            ExitStatus::Configuration.into()
        }
    }
}

impl Arguments {
    /// Parses the arguments. Returns `None` if only the version is asked for.
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Self>, ()> {
        let (mut directory, mut confined) = (None, true);
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--directory") => directory = arguments.next().map(PathBuf::from),
                Some("--no-sandbox") => confined = false,
                Some("--version") => return Ok(None),
                _ => return Err(()),
            }
        }
        directory.map(|directory| Some(Self { directory, confined })).ok_or(())
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let socket = socket()?;
    sandbox::prefer_oom_kill();
    confine(arguments).map_err(io::Error::other)?;
    let _lock = lock(&arguments.directory)?;
    serving::serve(&socket, &arguments.directory, THREADS)
}

/// Takes the directory for this process, until it exits. During an upgrade, the predecessor's process
/// may still have it.
fn lock(directory: &Path) -> io::Result<Flock<File>> {
    let path = directory.join("lock");
    let name =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let open = || File::options().create(true).truncate(false).write(true).open(&path);
    let file = match Flock::lock(open().map_err(name)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) => file,
        Err((_, error)) => return Err(name(error.into())),
    };
    tracing::info!("waiting for another index process to release the collections");
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EINTR)) => file = same,
            Err((_, error)) => return Err(name(error.into())),
        }
    }
}

/// Takes the socket that the supervisor passed.
fn socket() -> io::Result<UnixStream> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.peer_addr().map_err(|_| io::Error::other("standard input is not a connected socket"))?;
    Ok(socket)
}

fn confine(arguments: &Arguments) -> Result<(), SandboxError> {
    sandbox::limit(Limits::default())?;
    if arguments.confined {
        sandbox::enter()?;
        Files::for_index(&arguments.directory)?.enter()?;
    }
    Ok(())
}
