//! `cargo xtask openapi`: writes the output of `onnxd openapi` to a file.

use std::{
    fs::File,
    path::PathBuf,
    process::{Command, ExitCode},
};

use clap::Args;

use crate::{
    error::Error,
    layout::{Layout, shown},
    print_line, process,
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// File to write [default: target/openapi.json]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(layout: &Layout, options: Options) -> Result<ExitCode, Error> {
    process::build(layout, &["-p", "onnxd", "--bin", "onnxd"])?;
    let output = options.output.unwrap_or_else(|| layout.openapi());
    let file = File::create(&output).map_err(Error::io("cannot create", &output))?;
    let onnxd = layout.debug().join("onnxd");
    let status = Command::new(&onnxd)
        .arg("openapi")
        .stdout(file)
        .status()
        .map_err(Error::io("cannot start", &onnxd))?;
    if !status.success() {
        return Err(Error::Failed { what: "onnxd openapi".to_owned(), status });
    }
    print_line(&shown(&output));
    Ok(ExitCode::SUCCESS)
}
