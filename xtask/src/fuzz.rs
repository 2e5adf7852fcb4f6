//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`, each for a while, from the seeds that are committed
//! there. What they check stands in the `properties.rs` of each crate, and is part of the normal tests, too.

use std::{
    fs,
    process::{Command, ExitCode, Stdio},
};

use clap::Args;

use crate::{error::Error, layout::Layout, process, say};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long each target runs.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Targets; without any, all of them.
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
        say(&format!("fuzzing {target} for {} s", options.seconds));
        let found = layout.fuzz().join("corpus").join(&target);
        fs::create_dir_all(&found).map_err(Error::io("cannot make", &found))?;
        let status = command(layout, &target, options.seconds)
            .status()
            .map_err(Error::io("cannot start cargo in", layout.workspace()))?;
        if !status.success() {
            return Ok(process::exit_code(status));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Each file of the folder is one.
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
    // What a run finds out goes to the first folder, the second is only read.
    let (found, seeds) = (layout.fuzz().join("corpus"), layout.fuzz().join("seeds"));
    let mut command = process::cargo();
    command.args(["fuzz", "run", "--fuzz-dir"]).arg(layout.fuzz()).arg(target);
    command.arg(found.join(target)).arg(seeds.join(target)).arg("--");
    command.arg(format!("-max_total_time={seconds}"));
    // Sanitizers ask for a nightly compiler, or for this.
    command.current_dir(layout.workspace()).env("RUSTC_BOOTSTRAP", "1");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds() {
        let layout = Layout::of_workspace();
        let targets = targets(&layout).unwrap();
        assert!(targets.len() >= 8, "{targets:?}");
        for target in targets {
            let seeds = fs::read_dir(layout.fuzz().join("seeds").join(&target));
            assert!(seeds.unwrap().next().is_some(), "{target}");
        }
    }
}
