//! `cargo xtask bench`: builds everything in release mode and runs package `onnxd-bench`.

use std::{path::Path, process::ExitCode};

use crate::{error::Error, layout::Layout, process};

pub(crate) fn run(layout: &Layout, args: &[String]) -> Result<ExitCode, Error> {
    let packages = ["onnxd-bench", "onnxd-bench-runtime"];
    build_and_run(layout, &layout.release("bench"), &release(&packages), args)
}

/// Returns the build arguments for the server and `packages` in release mode.
pub(crate) fn release<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let server = ["--release", "--bins", "-p", "onnxd", "-p", "onnxd-worker"];
    let packages = packages.iter().flat_map(|package| ["-p", package]);
    server.into_iter().chain(packages).collect()
}

/// Builds with the given arguments, which must include `program`, and runs it.
pub(crate) fn build_and_run(
    layout: &Layout,
    program: &Path,
    build: &[&str],
    args: &[String],
) -> Result<ExitCode, Error> {
    process::build(layout, build)?;
    // All executables are built into one directory.
    let executables = program.parent().unwrap_or(layout.workspace());
    let status = std::process::Command::new(program)
        .args(args)
        .env("ONNXD_TEST_ONNXRUNTIME", layout.runtime())
        .env("ONNXD_TEST_MODELS", layout.models())
        .env("ONNXD_TEST_EXECUTABLES", executables)
        .status()
        .map_err(Error::io("cannot start", program))?;
    Ok(process::exit_code(status))
}
