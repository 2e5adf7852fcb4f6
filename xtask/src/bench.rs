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

/// Adds `--python` to the arguments of the parts that start a Python service, unless it is there.
fn with_python(layout: &Layout, args: &[String]) -> Result<Vec<OsString>, Error> {
    let mut all: Vec<OsString> = args.iter().map(OsString::from).collect();
    let given = args.iter().any(|arg| arg.starts_with("--python"));
    let python = match args.first().map(String::as_str) {
        Some("picture") => Python::of_service(layout),
        Some("search") => Python::of_search(layout),
        _ => return Ok(all),
    };
    if !given {
        let _lock = layout.lock()?;
        all.extend(["--python".into(), python.command()?.get_program().to_owned()]);
    }
    Ok(all)
}

/// Returns the build arguments for the server and `packages` in release mode.
pub(crate) fn release<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let server = ["--release", "--bins", "-p", "onnxd", "-p", "onnxd-worker", "-p", "onnxd-index"];
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
