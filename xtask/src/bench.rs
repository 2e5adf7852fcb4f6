//! `cargo xtask bench`: builds everything for release and runs package `onnxd-bench`.

use std::{path::Path, process::ExitCode};

use crate::{error::Error, layout::Layout, process};

pub(crate) fn run(layout: &Layout, args: &[String]) -> Result<ExitCode, Error> {
    let packages = ["onnxd-bench", "onnxd-bench-runtime"];
    build_and_run(layout, &layout.release("bench"), &release(&packages), args)
}

/// Builds the server and `packages` for release.
pub(crate) fn release<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let server = ["--release", "--bins", "-p", "onnxd", "-p", "onnxd-worker"];
    let packages = packages.iter().flat_map(|package| ["-p", package]);
    server.into_iter().chain(packages).collect()
}

/// Builds with these arguments, among others `program`, and runs that.
pub(crate) fn build_and_run(
    layout: &Layout,
    program: &Path,
    build: &[&str],
    args: &[String],
) -> Result<ExitCode, Error> {
    process::build(layout, build)?;
    // What is built is beside it.
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
