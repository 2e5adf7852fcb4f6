//! The library behind `onnxd-fetch`, the process that asks servers for versions of a model and
//! downloads them. The supervisor starts it with the download directory as working directory and
//! speaks [`onnxd_proto::domain::fetch`] with it. Another process of the same program, `onnxd-fetch
//! export`, sends spans to a collector.
//!
//! Imports point one way: `conversation` → `download` → `sources` → `client`, and all of them →
//! {`environment`, `part`, `folder`, `digest`}; `export` → `client`.

mod client;
mod conversation;
mod digest;
mod download;
mod environment;
mod export;
mod folder;
mod netrc;
mod part;
mod sources;
mod state;

use std::{
    env,
    io::{self, BufRead, IsTerminal as _, Read as _, Write as _},
    path::Path,
    process::ExitCode,
};

use nix::{
    sys::{prctl, signal::Signal},
    unistd::{Pid, getppid},
};

use onnxd_proto::{
    domain::fetch::{FetchError, FetchErrorKind, FetchEvent, FetchRequest},
    exit::ExitStatus,
};
use onnxd_sandbox::{self as sandbox, Limits, Network, SandboxError, files::Files};
use onnxd_telemetry::log;

pub use crate::{
    client::Times,
    conversation::{Conversation, Options},
    environment::Environment,
};

/// Maximum bytes of a request.
const REQUEST_BYTES_MAX: u64 = 16 << 20;

const USAGE: &str = "\
onnxd-fetch downloads versions of a model for onnxd, which starts it; to download one by hand, use \
`onnxd fetch`. It reads requests from standard input, one JSON object a line, downloads into the \
working directory, and prints events. For example, {\"resolve\":{\"source\":\"hf://org/name\",\
\"known\":null,\"allows_private\":true,\"bytes_max\":1000000000,\"files_max\":1000}} lists the files \
of a source, and {\"download\":[\"config.json\"]} downloads one. `onnxd-fetch export` sends traces to a \
collector, see --otlp-endpoint of onnxd. Options: --no-sandbox, --version.\n";

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    let parent = getppid();
    // The supervisor starts this executable by descriptor, whose number would be its name in ps(1).
    let _ = prctl::set_name(c"onnxd-fetch");
    let (mut confined, mut exports) = (true, false);
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--no-sandbox" => confined = false,
            "export" => exports = true,
            "--version" => {
                let _ = writeln!(io::stdout(), "onnxd-fetch {}", env!("CARGO_PKG_VERSION"));
                return ExitStatus::Success.into();
            }
            _ => return usage(),
        }
    }
    if io::stdin().is_terminal() {
        return usage();
    }
    if let Err(error) = log::init(None) {
        log::print_error(&error.to_string());
        return ExitStatus::Configuration.into();
    }
    if exports {
        return export::main(parent, confined);
    }
    let mut requests = io::stdin().lock();
    let first = match next(&mut requests) {
        Ok(Some(request)) => request,
        Ok(None) => return usage(),
        Err(error) => return fail(error),
    };
    match converse(first, &mut requests, (parent, confined)) {
        Ok(()) => ExitStatus::Success.into(),
        Err(error) => fail(error),
    }
}

fn usage() -> ExitCode {
    let _ = io::stderr().write_all(USAGE.as_bytes());
    ExitStatus::Usage.into()
}

/// Reports the error that ends the conversation.
fn fail(error: FetchError) -> ExitCode {
    print(&FetchEvent::Failed(error));
    ExitStatus::Refused.into()
}

/// Answers requests until there are no more.
fn converse(
    first: FetchRequest,
    requests: &mut impl BufRead,
    (parent, is_confined): (Pid, bool),
) -> Result<(), FetchError> {
    let internal = |what: &str, error: &dyn std::fmt::Display| {
        FetchErrorKind::Internal.because(format!("{what}: {error}"))
    };
    let FetchRequest::Resolve(about) = &first else {
        return Err(FetchErrorKind::Internal.because("the first request must be `resolve`"));
    };
    let options = Options {
        directory: ".".into(),
        environment: Environment::of_process(),
        times: Times::default(),
    };
    let mut conversation = Conversation::begin(about.clone(), &options)?;
    limit(parent, about.bytes_max).map_err(|error| internal("failed to start", &error))?;
    if is_confined {
        confine(&options.environment).map_err(|error| internal("failed to start", &error))?;
    }
    // Secrets that this source does not need.
    drop(options);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| internal("failed to start", &error))?;
    let mut request = Some(first);
    while let Some(present) = request {
        print(&runtime.block_on(conversation.answer(present, &mut |event| print(&event)))?);
        request = next(requests)?;
    }
    Ok(())
}

/// Lowers the priority and sets limits. The process ends with its parent.
fn limit(parent: Pid, bytes_max: u64) -> Result<(), SandboxError> {
    // The kernel derives the priority of input and output from it.
    sandbox::yield_to_serving();
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        std::process::exit(ExitStatus::Success as i32);
    }
    sandbox::prefer_oom_kill();
    sandbox::limit(Limits::fetching(bytes_max))
}

/// Restricts the process to outgoing connections and its working directory.
fn confine(environment: &Environment) -> Result<(), SandboxError> {
    sandbox::enter_with(Network::Outgoing)?;
    Files::of_fetcher(Path::new("."), &environment.files_read_later())?.enter()
}

/// Reads the next request. `None` at the end.
fn next(requests: &mut impl BufRead) -> Result<Option<FetchRequest>, FetchError> {
    let invalid = |error: &dyn std::fmt::Display| {
        FetchErrorKind::Internal.because(format!("invalid request: {error}"))
    };
    let mut line = String::new();
    requests.take(REQUEST_BYTES_MAX).read_line(&mut line).map_err(|error| invalid(&error))?;
    match line.trim() {
        "" => Ok(None),
        line => serde_json::from_str(line).map(Some).map_err(|error| invalid(&error)),
    }
}

/// Prints an event. Nobody reads it if that fails, so the process ends.
fn print(event: &FetchEvent) {
    let line = serde_json::to_string(event).unwrap_or_default();
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(ExitStatus::Internal as i32);
    }
}
