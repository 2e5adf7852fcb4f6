//! `cargo xtask test`: all tests, with what they need. Those with other people's clients are in
//! [`clients`].

use std::process::ExitCode;

use crate::{
    clients::{self, Where},
    error::Error,
    layout::Layout,
    process,
};

/// Packages whose tests start the real executables.
const E2E: [&str; 2] = ["e2e", "onnxd-soak"];
/// An end-to-end test runs several pinned processes, and the machines that check this have two cores.
const E2E_THREADS: &str = "--test-threads=2";

pub(crate) fn run(layout: &Layout, args: &[String]) -> Result<ExitCode, Error> {
    // The end-to-end tests start these executables; `cargo test -p e2e` alone would not build them.
    let build = ["build", "--workspace", "--all-targets"].map(str::to_owned);
    for command in [build.to_vec(), unit_args(args), e2e_args(args)] {
        let status = process::cargo()
            .args(&command)
            .current_dir(layout.workspace())
            .env("ONNXD_TEST_ONNXRUNTIME", layout.runtime())
            .env("ONNXD_TEST_MODELS", layout.models())
            .status()
            .map_err(Error::io("cannot start cargo in", layout.workspace()))?;
        if !status.success() {
            return Ok(process::exit_code(status));
        }
    }
    // A filter names a Rust test.
    if args.is_empty() { clients::run(layout, &[], Where::Possible) } else { Ok(ExitCode::SUCCESS) }
}

fn unit_args(args: &[String]) -> Vec<String> {
    let exclude = E2E.iter().flat_map(|package| ["--exclude", package]);
    let own = ["test", "--workspace"].into_iter().chain(exclude);
    own.map(str::to_owned).chain(args.iter().cloned()).collect()
}

/// The thread count goes behind the `--` of cargo, unless one is given there.
fn e2e_args(args: &[String]) -> Vec<String> {
    let mut parts = args.splitn(2, |arg| arg == "--");
    let (for_cargo, for_tests) = (parts.next().unwrap_or(&[]), parts.next().unwrap_or(&[]));
    let packages = E2E.iter().flat_map(|package| ["-p", package]);
    let mut all: Vec<String> = ["test"].into_iter().chain(packages).map(str::to_owned).collect();
    all.extend_from_slice(for_cargo);
    all.push("--".to_owned());
    if !for_tests.iter().any(|arg| arg.starts_with("--test-threads")) {
        all.push(E2E_THREADS.to_owned());
    }
    all.extend_from_slice(for_tests);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(make: fn(&[String]) -> Vec<String>, args: &[&str]) -> String {
        make(&args.iter().map(ToString::to_string).collect::<Vec<_>>()).join(" ")
    }

    #[test]
    fn a_filter_goes_to_both() {
        let unit = joined(unit_args, &["rollback"]);
        assert_eq!(unit, "test --workspace --exclude e2e --exclude onnxd-soak rollback");
        assert_eq!(
            joined(e2e_args, &["rollback"]),
            "test -p e2e -p onnxd-soak rollback -- --test-threads=2"
        );
    }

    #[test]
    fn arguments_of_the_test_program_stay_behind_the_dashes() {
        let args = ["a", "--", "--nocapture"];
        assert_eq!(
            joined(e2e_args, &args),
            "test -p e2e -p onnxd-soak a -- --test-threads=2 --nocapture"
        );
    }

    #[test]
    fn a_given_thread_count_replaces_ours() {
        let args = ["--", "--test-threads=1"];
        assert_eq!(joined(e2e_args, &args), "test -p e2e -p onnxd-soak -- --test-threads=1");
    }
}
