//! `cargo xtask fuzz`: runs the targets in `fuzz/` for a while each, starting from the committed
//! seeds. The properties they check are in each crate's `properties.rs`, which the regular tests
//! also run.

use std::{
    fs,
    process::{Command, ExitCode, Stdio},
};

use clap::Args;

use crate::{error::Error, layout::Layout, print_line, process};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seconds to run each target
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Targets to run [default: all]
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

pub(crate) fn run(layout: &Layout, options: Options) -> Result<ExitCode, Error> {
    let known = targets(layout)?;
    if let Some(unknown) = options.targets.iter().find(|target| !known.contains(target)) {
        return Err(Error::NoTarget { target: unknown.clone(), known });
    }
    let chosen = if options.targets.is_empty() { known } else { options.targets };
    let mut version = process::cargo();
    version.args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().is_ok_and(|status| status.success()) {
        return Err(Error::NoCargoFuzz);
    }
    for target in chosen {
        print_line(&format!("fuzzing {target} for {} s", options.seconds));
        let found = layout.fuzz().join("corpus").join(&target);
        fs::create_dir_all(&found).map_err(Error::io("cannot create", &found))?;
        let status = command(layout, &target, options.seconds)
            .status()
            .map_err(Error::io("cannot start cargo in", layout.workspace()))?;
        if !status.success() {
            return Ok(process::exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the names of all targets. Each file in the folder is one.
fn targets(layout: &Layout) -> Result<Vec<String>, Error> {
    let folder = layout.fuzz().join("targets");
    let files = fs::read_dir(&folder).map_err(Error::io("cannot read", &folder))?;
    let paths = files.filter_map(|file| Some(file.ok()?.path()));
    let mut names: Vec<String> =
        paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

fn command(layout: &Layout, target: &str, seconds: u32) -> Command {
    // libFuzzer writes new inputs to the first folder and only reads the second.
    let (found, seeds) = (layout.fuzz().join("corpus"), layout.fuzz().join("seeds"));
    let mut command = process::cargo();
    command.args(["fuzz", "run", "--fuzz-dir"]).arg(layout.fuzz()).arg(target);
    command.arg(found.join(target)).arg(seeds.join(target)).arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    // Sanitizers require a nightly compiler or this variable.
    command.current_dir(layout.workspace()).env("RUSTC_BOOTSTRAP", "1");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds() {
        let layout = Layout::for_workspace();
        let targets = targets(&layout).unwrap();
        assert!(targets.len() >= 8, "{targets:?}");
        for target in targets {
            let seeds = fs::read_dir(layout.fuzz().join("seeds").join(&target));
            assert!(seeds.unwrap().next().is_some(), "{target}");
        }
    }
}
