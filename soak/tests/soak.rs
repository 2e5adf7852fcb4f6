//! Tests the soak itself: it runs, and it detects violations.

use std::{path::Path, process::Output};

use e2e::fixtures::workspace;

/// Runs the soak for a few seconds with these arguments.
async fn soak(arguments: &[&str]) -> (Output, String) {
    let program = Path::new(env!("CARGO_BIN_EXE_soak"));
    let mut command = tokio::process::Command::new(program);
    command
        .args(["--clients", "8", "--workers", "4"])
        .args(arguments)
        .env("ONNXD_TEST_EXECUTABLES", program.parent().expect("a directory"))
        .kill_on_drop(true);
    let output = command.output().await.expect("the soak can be started");
    // Violations go to standard output, a panic to standard error.
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_seconds_of_faults_violate_nothing() {
    let rates = ["--deaths", "2", "--updates", "4", "--others", "3"];
    let arguments = [&["--minutes", "0.17", "--seed", "7"], &rates[..]].concat();
    let (output, text) = soak(&arguments).await;
    assert!(output.status.success(), "{text}");
    for part in ["violations  0", "SIGKILL", "update", "restarted"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_are_exact_during_updates_and_kills() {
    let arguments = ["--search", "--documents", "600", "--steps", "3", "--seed", "8"];
    let (output, text) = soak(&arguments).await;
    assert!(output.status.success(), "{text}");
    for part in ["violations  0", "committed", "killed index"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_in_another_space_is_found() {
    let arguments = ["--search", "--documents", "100", "--steps", "1", "--lie", "content"];
    let (output, text) = soak(&[&arguments[..], &["--seed", "905"]].concat()).await;
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("LabelTruth"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn false_reports_are_found_and_dumped() {
    for (lie, found, seed) in [
        ("content", "LabelTruth", "901"),
        ("stale", "Freshness", "902"),
        ("failure", "Answered", "903"),
        ("count", "I6", "904"),
    ] {
        let rates = ["--deaths", "0", "--updates", "2", "--others", "0"];
        let arguments = [&["--minutes", "0.1", "--lie", lie, "--seed", seed], &rates[..]].concat();
        let (output, text) = soak(&arguments).await;
        assert_eq!(output.status.code(), Some(1), "{lie}: {text}");
        let directory = workspace().join("target/soak").join(seed);
        let read = |name: &str| {
            let read = std::fs::read_to_string(directory.join(name));
            read.unwrap_or_else(|error| panic!("{lie}: {name}: {error}: {text}"))
        };
        assert!(read("violations").contains(found), "{lie}: {}", read("violations"));
        assert!(read("seed").contains(seed) && text.contains(seed), "{text}");
        assert!(read("schedule").contains("Update"), "{}", read("schedule"));
        assert!(read("requests").contains("generation"), "{lie}");
        assert!(!read("server.log").is_empty());
    }
}
