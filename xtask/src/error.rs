//! What can go wrong, with what to do about it.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
};

/// The way round everything that has to be fetched or made here.
const BY_HAND: &str = "Or give a model and a library yourself: \
    cargo xtask serve --model NAME=DIR --onnxruntime PATH (or the same with onnxd serve)";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "cannot run {python} ({source}). Install Python 3.9 or newer, or name it in PYTHON.\n{BY_HAND}"
    )]
    NoPython { python: String, source: std::io::Error },
    #[error("{python} is not Python 3.9 or newer. Name another one in PYTHON.\n{BY_HAND}")]
    OldPython { python: String },
    #[error(
        "{python} cannot make a virtual environment with pip in it: its modules venv and ensurepip \
        are missing. On Debian and Ubuntu they are in the package python3-venv.\n{BY_HAND}"
    )]
    NoVenv { python: String },
    #[error(
        "the packages of tests/clients are pinned for CPython 3.11 and 3.12 with its venv module, and python3 \
        is not that. Name another one in PYTHON."
    )]
    NoClients,
    #[error(
        "pip could not fetch {what} ({status}), its own message is above. Is there a network, and \
        does pip reach its index?\n{BY_HAND}"
    )]
    Pip { what: String, status: ExitStatus },
    #[error(
        "{} is not what it should be, also when fetched again: its SHA-256 is {actual}, \
        expected is {expected}. It has been removed.\n{BY_HAND}",
        path.display()
    )]
    Hash { path: PathBuf, expected: String, actual: String },
    #[error("{} is missing, just after it was made", .0.display())]
    Missing(PathBuf),
    #[error(
        "there is no ONNX Runtime for {0} here, only for Linux on x86_64 and aarch64. Give a library \
        with --onnxruntime PATH."
    )]
    UnsupportedPlatform(String),
    #[error(
        "cargo-fuzz is not installed. `cargo install cargo-fuzz --locked` installs it; it needs a C++ compiler, too."
    )]
    NoCargoFuzz,
    #[error("there is no fuzz target {target}; there are {}", known.join(", "))]
    NoTarget { target: String, known: Vec<String> },
    #[error("the documents have {} faults:\n{}", faults.len(), faults.join("\n"))]
    Documents { faults: Vec<String> },
    #[error("{what} failed ({status})")]
    Failed { what: String, status: ExitStatus },
    #[error("cannot listen on {listen}: {source}. Choose another address with --listen.")]
    Listen { listen: String, source: std::io::Error },
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot handle signals: {0}")]
    Signals(nix::Error),
}

impl Error {
    /// For `map_err`: `.map_err(Error::io("cannot read", path))`.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
