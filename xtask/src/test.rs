//! `cargo xtask test`: runs all tests and prepares what they need. For tests with third-party
//! clients see [`clients`].

use std::process::ExitCode;

use crate::{
    clients::{self, When},
    error::Error,
    layout::Layout,
    process,
};

/// What is built first. Every run selects the same packages; otherwise dependencies would get
/// different features and be rebuilt.
pub(crate) const BUILD: [&str; 3] = ["--workspace", "--bins", "--tests"];
/// Test targets, quick ones first, and whether they start servers.
const RUNS: [(&[&str], bool); 3] =
    [(&["--lib", "--bins"], false), (&["--doc"], false), (&["--test", "*"], true)];
/// An end-to-end test runs several pinned processes, and the CI machines have two cores.
const THREADS: &str = "--test-threads=2";

pub(crate) fn run(layout: &Layout, args: &[String]) -> Result<ExitCode, Error> {
    // `cargo test` alone would not build the executables that end-to-end tests start.
    process::build(layout, &BUILD)?;
    for (targets, starts_servers) in RUNS {
        let status = process::cargo()
            .args(["test", "--workspace"])
            .args(targets)
            .args(if starts_servers { with_thread_limit(args) } else { args.to_vec() })
            .current_dir(layout.workspace())
            .env("ONNXD_TEST_ONNXRUNTIME", layout.runtime())
            .env("ONNXD_TEST_MODELS", layout.models())
            .status()
            .map_err(Error::io("cannot start cargo in", layout.workspace()))?;
        if !status.success() {
            return Ok(process::exit_code(status));
        }
    }
    // A filter names Rust tests, so skip the client tests.
    if args.is_empty() { clients::run(layout, &[], When::Possible) } else { Ok(ExitCode::SUCCESS) }
}

/// Adds the thread count after `--`, unless the arguments already set one.
fn with_thread_limit(args: &[String]) -> Vec<String> {
    let mut parts = args.splitn(2, |arg| arg == "--");
    let (for_cargo, for_tests) = (parts.next().unwrap_or(&[]), parts.next().unwrap_or(&[]));
    let mut all = for_cargo.to_vec();
    all.push("--".to_owned());
    if !for_tests.iter().any(|arg| arg.starts_with("--test-threads")) {
        all.push(THREADS.to_owned());
    }
    all.extend_from_slice(for_tests);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(args: &[&str]) -> String {
        with_thread_limit(&args.iter().map(ToString::to_string).collect::<Vec<_>>()).join(" ")
    }

    #[test]
    fn a_filter_is_passed_on() {
        assert_eq!(joined(&[]), "-- --test-threads=2");
        assert_eq!(joined(&["rollback"]), "rollback -- --test-threads=2");
    }

    #[test]
    fn arguments_of_the_test_program_stay_after_the_dashes() {
        let all = "a -- --test-threads=2 --nocapture";
        assert_eq!(joined(&["a", "--", "--nocapture"]), all);
    }

    #[test]
    fn an_explicit_thread_count_wins() {
        assert_eq!(joined(&["--", "--test-threads=1"]), "-- --test-threads=1");
    }
}
