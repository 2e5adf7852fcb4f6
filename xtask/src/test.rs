//! `cargo xtask test`: all tests, with what they need. Those with other people's clients are in
//! [`clients`].

use std::process::ExitCode;

use crate::{
    clients::{self, Where},
    error::Error,
    layout::Layout,
    process,
};

/// What is built first. All runs select the same packages: with others, dependencies would have other
/// features, and cargo would build them once more.
pub(crate) const BUILD: [&str; 3] = ["--workspace", "--bins", "--tests"];
/// What is run, the quick tests first, and whether it starts servers.
const RUNS: [(&[&str], bool); 3] =
    [(&["--lib", "--bins"], false), (&["--doc"], false), (&["--test", "*"], true)];
/// An end-to-end test runs several pinned processes, and the machines that check this have two cores.
const THREADS: &str = "--test-threads=2";

pub(crate) fn run(layout: &Layout, args: &[String]) -> Result<ExitCode, Error> {
    // The end-to-end tests start executables that `cargo test` alone would not build.
    process::build(layout, &BUILD)?;
    for (targets, starts_servers) in RUNS {
        let status = process::cargo()
            .args(["test", "--workspace"])
            .args(targets)
            .args(if starts_servers { limited(args) } else { args.to_vec() })
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

/// The thread count goes behind the `--` of cargo, unless one is given there.
fn limited(args: &[String]) -> Vec<String> {
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
        limited(&args.iter().map(ToString::to_string).collect::<Vec<_>>()).join(" ")
    }

    #[test]
    fn a_filter_is_passed_on() {
        assert_eq!(joined(&[]), "-- --test-threads=2");
        assert_eq!(joined(&["rollback"]), "rollback -- --test-threads=2");
    }

    #[test]
    fn arguments_of_the_test_program_stay_behind_the_dashes() {
        let all = "a -- --test-threads=2 --nocapture";
        assert_eq!(joined(&["a", "--", "--nocapture"]), all);
    }

    #[test]
    fn a_given_thread_count_replaces_ours() {
        assert_eq!(joined(&["--", "--test-threads=1"]), "-- --test-threads=1");
    }
}
