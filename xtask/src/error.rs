//! Errors, each with its remedy.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
};

/// Appended to errors about fetching or building: how to avoid both.
const BY_HAND: &str = "To avoid this step, give a model and a library: \
    cargo xtask serve --model NAME=DIR --onnxruntime PATH (or the same with onnxd serve)";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "cannot run {python}: {source}. Install Python 3.9 or newer, or set PYTHON to one.\n{BY_HAND}"
    )]
    NoPython { python: String, source: std::io::Error },
    #[error("{python} is older than Python 3.9. Set PYTHON to a newer one.\n{BY_HAND}")]
    OldPython { python: String },
    #[error(
        "{python} cannot create a virtual environment: its modules venv and ensurepip are missing. \
        On Debian and Ubuntu, install the package python3-venv.\n{BY_HAND}"
    )]
    NoVenv { python: String },
    #[error(
        "tests/clients needs CPython 3.11 or 3.12 with the venv module, for which its packages are pinned. \
        Set PYTHON to one"
    )]
    NoClients,
    #[error(
        "pip could not fetch {what} ({status}); see its message above. Check the network and pip's \
        index.\n{BY_HAND}"
    )]
    Pip { what: String, status: ExitStatus },
    #[error(
        "{} has an unexpected SHA-256, even after a second download: got {actual}, expected {expected}. \
        The file was removed.\n{BY_HAND}",
        path.display()
    )]
    Hash { path: PathBuf, expected: String, actual: String },
    #[error("internal error: {} is missing after it was created", .0.display())]
    Missing(PathBuf),
    #[error(
        "no ONNX Runtime library is available for {0}, only for Linux on x86_64 and aarch64. Pass a library \
        with --onnxruntime PATH"
    )]
    UnsupportedPlatform(String),
    #[error(
        "cargo-fuzz is not installed. Run `cargo install cargo-fuzz --locked`; it needs a C++ compiler"
    )]
    NoCargoFuzz,
    #[error("unknown fuzz target {target}; expected one of {}", known.join(", "))]
    NoTarget { target: String, known: Vec<String> },
    #[error("the documents have {} faults:\n{}", faults.len(), faults.join("\n"))]
    Documents { faults: Vec<String> },
    #[error("the tests of sources need servers. On Debian and Ubuntu: apt-get install {packages}")]
    NoServers { packages: String },
    #[error("{what} failed ({status})")]
    Failed { what: String, status: ExitStatus },
    #[error("cannot listen on {listen}: {source}. Choose another address with --listen")]
    Listen { listen: String, source: std::io::Error },
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot handle signals: {0}")]
    Signals(nix::Error),
}

impl Error {
    /// Wraps an I/O error, for `map_err`: `.map_err(Error::io("cannot read", path))`.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
