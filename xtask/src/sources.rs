//! `cargo xtask test-sources`: runs the tests of sources with real servers. Installs those that are
//! Python packages; a distribution has the others.

use std::process::{Command, ExitCode, Stdio};

use clap::Args;

use crate::{error::Error, layout::Layout, print_line, process, python::Python};

/// The test program, with the executables that it starts. All packages, as other runs select them:
/// otherwise dependencies would get different features and be rebuilt.
const BUILD: [&str; 4] = ["--workspace", "--bins", "--test", "remote"];
/// Programs that the tests need, and the packages of Debian and Ubuntu that have them.
const PROGRAMS: [(&str, &str); 4] = [
    ("docker-registry", "docker-registry"),
    ("tinyproxy", "tinyproxy"),
    ("git", "git"),
    ("git-lfs", "git-lfs"),
];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Also test MLflow, whose installation takes minutes
    #[arg(long)]
    all: bool,
    /// Arguments for the test program, for example the name of a test
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Installs the servers and runs the tests.
pub(crate) fn run(layout: &Layout, options: &Options) -> Result<ExitCode, Error> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(name, _)| !exists(name)).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        return Err(Error::NoServers { packages: missing.join(" ") });
    }
    let requirements = if options.all { "requirements-all.txt" } else { "requirements.txt" };
    let python = {
        let _lock = layout.lock()?;
        let python = Python::of_sources(layout, requirements);
        python.command()?;
        python
    };
    if !options.all {
        print_line("MLflow is skipped; --all tests it");
    }
    process::build(layout, &BUILD)?;
    let mut command = process::cargo();
    command.args(["test", "--workspace", "--test", "remote", "--", "--ignored"]);
    // Each test starts servers that need seconds of CPU time.
    command.arg("--test-threads=2").args(&options.args);
    if !options.all {
        command.args(["--skip", "mlflow"]);
    }
    let status = command
        .current_dir(layout.workspace())
        .env("ONNXD_TEST_SERVERS", python.programs())
        .env("ONNXD_TEST_ONNXRUNTIME", layout.runtime())
        .env("ONNXD_TEST_MODELS", layout.models())
        .status()
        .map_err(Error::io("cannot start cargo in", layout.workspace()))?;
    Ok(process::exit_code(status))
}

/// Returns whether a program can be started.
fn exists(name: &str) -> bool {
    let mut command = Command::new(name);
    command.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}
