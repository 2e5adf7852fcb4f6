//! The tests in `tests/clients`: Python tests that drive a real onnxd with third-party clients.
//!
//! Run by `cargo xtask test-clients`, and at the end of `cargo xtask test`.

use std::process::ExitCode;

use crate::{
    error::Error,
    layout::Layout,
    print_line, process,
    python::{self, Python},
};

/// When to run the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// If a Python exists that the packages are pinned for; always in CI.
    Possible,
    Always,
}

/// Builds the executables and runs the tests.
pub(crate) fn build_and_run(layout: &Layout, args: &[String]) -> Result<ExitCode, Error> {
    let status = process::cargo()
        .args(["build", "--bin", "onnxd", "--bin", "onnxd-worker", "--bin", "onnxd-index"])
        .current_dir(layout.workspace())
        .status()
        .map_err(Error::io("cannot start cargo in", layout.workspace()))?;
    if !status.success() {
        return Ok(process::exit_code(status));
    }
    run(layout, args, When::Always)
}

/// Runs the tests with the executables of the dev profile, which must already be built.
pub(crate) fn run(layout: &Layout, args: &[String], needed: When) -> Result<ExitCode, Error> {
    if !python::runs_clients() {
        if needed == When::Always || std::env::var_os("CI").is_some() {
            return Err(Error::NoClients);
        }
        print_line(
            "tests/clients: skipped; its packages need CPython 3.11 or 3.12 (set PYTHON to select one)",
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut python = {
        let _lock = layout.lock()?;
        Python::for_clients(layout).command()?
    };
    let status = python
        .args(["-m", "pytest", "-q"])
        .args(args)
        // pytest finds its settings here, and they disable its cache.
        .current_dir(layout.clients())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("ONNXD_TEST_ONNXRUNTIME", layout.runtime())
        .env("ONNXD_TEST_MODELS", layout.models())
        .env("ONNXD_TEST_EXECUTABLES", layout.debug())
        .status()
        .map_err(Error::io("cannot start Python in", &layout.clients()))?;
    Ok(process::exit_code(status))
}
