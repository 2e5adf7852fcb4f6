//! `cargo xtask bench`: builds everything for release and runs the benchmark of package `e2e`.

use std::path::Path;
use std::process::ExitCode;

use crate::error::Error;
use crate::layout::Layout;
use crate::process;

/// What is built for release.
pub(crate) const RELEASE: [&str; 10] = [
    "--release",
    "--bins",
    "-p",
    "onnxd",
    "-p",
    "onnxd-worker",
    "-p",
    "bench-runtime",
    "-p",
    "e2e",
];

pub(crate) fn run(layout: &Layout, args: &[String]) -> Result<ExitCode, Error> {
    build_and_run(layout, &layout.release("bench"), &RELEASE, args)
}

/// Builds with these arguments, among others `program`, and runs that.
pub(crate) fn build_and_run(
    layout: &Layout,
    program: &Path,
    build: &[&str],
    args: &[String],
) -> Result<ExitCode, Error> {
    let status = process::cargo()
        .arg("build")
        .args(build)
        .current_dir(layout.workspace())
        .status()
        .map_err(Error::io("cannot start cargo in", layout.workspace()))?;
    if !status.success() {
        return Err(Error::Failed { what: "cargo build".to_owned(), status });
    }
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
