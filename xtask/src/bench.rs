//! `cargo xtask bench`: builds everything in release mode and runs package `onnxd-bench`.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use crate::{error::Error, layout::Layout, process, python::Python};

pub(crate) fn run(layout: &Layout, args: &[String]) -> Result<ExitCode, Error> {
    let packages = ["onnxd-bench", "onnxd-bench-runtime"];
    let args = with_python(layout, args)?;
    build_and_run(layout, &layout.release("bench"), &release(&packages), &args)
}

/// Adds `--python` to the arguments of `picture`, which starts a Python service, unless it is there.
fn with_python(layout: &Layout, args: &[String]) -> Result<Vec<OsString>, Error> {
    let mut all: Vec<OsString> = args.iter().map(OsString::from).collect();
    let given = args.iter().any(|arg| arg.starts_with("--python"));
    if !given && args.first().is_some_and(|part| part == "picture") {
        let _lock = layout.lock()?;
        let python = Python::of_service(layout).command()?;
        all.extend(["--python".into(), python.get_program().to_owned()]);
    }
    Ok(all)
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
    args: &[impl AsRef<OsStr>],
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
