//! Output of `onnxd` commands without a terminal: plain lines, printed as things happen.

use std::process::Output;

use e2e::server::Server;
use serde_json::Value;

use crate::tiny;

fn printed(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    assert!(!text.contains(['\u{1b}', '\r']), "expected plain lines: {text:?}");
    text.lines().map(ToOwned::to_owned).collect()
}

/// Returns the first words of lines, without consecutive duplicates.
fn kinds(lines: &[String]) -> Vec<&str> {
    let mut kinds: Vec<&str> =
        lines.iter().filter_map(|line| line.split_whitespace().next()).collect();
    kinds.dedup();
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_prints_its_steps_and_a_summary() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let from = tiny("b");
    let from = from.to_str().unwrap();
    let output = server.cli(&["update", "m", "--from", from]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let lines = printed(&output);
    assert_eq!(kinds(&lines), ["staged", "passed", "checked", "loaded", "m:"], "{lines:#?}");
    let version = server.status().await.model("m").version.clone();
    let short = &version[..12];
    assert!(lines[0].contains(short) && lines[0].contains("MB"), "{}", lines[0]);
    let passed: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("passed ")).collect();
    let passed: Vec<&str> = passed.into_iter().map(str::trim).collect();
    assert_eq!(passed, ["load", "shapes", "drift", "compile"]);
    let checked = lines.iter().find(|line| line.starts_with("checked")).unwrap();
    assert!(checked.contains("32 dimensions") && checked.contains("cosine"), "{checked}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("loaded")).count(), 2);
    let summary = lines.last().unwrap();
    for part in ["generation 1 -> 2", short, " s"] {
        assert!(summary.contains(part), "{summary}");
    }

    let output = server.cli(&["rollback", "m"]).await;
    let lines = printed(&output);
    assert_eq!(kinds(&lines), ["loaded", "m:"], "{lines:#?}");
    assert!(lines.last().unwrap().contains("generation 2 -> 3"), "{lines:#?}");
    let output = server.cli(&["update", "m", "--from", from, "--load", "lazy"]).await;
    let lines = printed(&output);
    assert_eq!(
        kinds(&lines),
        ["staged", "m:"],
        "a known version that no worker has loaded yet: {lines:#?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_json_exactly_one_line_is_printed() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let (good, bad) = (tiny("b"), tiny("nan"));
    for (from, code, key) in [(&good, 0, "generation"), (&bad, 1, "error")] {
        let from = from.to_str().unwrap();
        let output = server.cli(&["update", "m", "--from", from, "--json"]).await;
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        let lines = printed(&output);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        let value: Value = serde_json::from_str(&lines[0]).unwrap();
        assert!(value.get(key).is_some(), "{value}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_prints_the_passed_checks_and_the_reason() {
    let server = Server::builder().model("m", &tiny("a")).start().await;
    let from = tiny("nan");
    let output = server.cli(&["update", "m", "--from", from.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lines = printed(&output);
    assert_eq!(kinds(&lines), ["staged", "passed"], "{lines:#?}");
    let reason = String::from_utf8(output.stderr).unwrap();
    assert!(reason.contains("finite") && reason.lines().count() == 1, "{reason}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_prints_a_table_of_models_and_one_of_workers() {
    let server = Server::builder().model("m", &tiny("a")).model("n", &tiny("cls")).start().await;
    server.update("m", Some(&tiny("b"))).await.unwrap();
    let status = server.settled().await;
    let lines = printed(&server.cli(&["status"]).await);
    let table = |heading: &str| {
        let first = lines.iter().position(|line| line.starts_with(heading));
        let rows = &lines[first.unwrap_or_else(|| panic!("{heading}: {lines:#?}"))..];
        rows.iter().take_while(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    // A cell starts in the same column as its heading.
    let cell = |rows: &[&String], row: usize, heading: &str| {
        let index = rows[0].find(heading).unwrap_or_else(|| panic!("{heading}: {lines:#?}"));
        rows[row][index..].split("  ").next().unwrap_or_default().to_owned()
    };
    let models = table("MODEL");
    assert_eq!(models.len(), 3, "{lines:#?}");
    let mean = status.model("m").drift.unwrap().mean_cosine;
    for (heading, expected) in [
        ("MODEL", "m".to_owned()),
        ("GENERATION", "2".to_owned()),
        ("VERSION", status.model("m").version[..12].to_owned()),
        ("TASK", "embed".to_owned()),
        ("COSINE", format!("{mean:.4}")),
        ("SOURCE", tiny("a").display().to_string()),
    ] {
        assert_eq!(cell(&models, 1, heading), expected, "{heading}: {lines:#?}");
    }
    assert_eq!(cell(&models, 2, "COSINE"), "-");
    let workers = table("WORKER");
    assert_eq!(workers.len(), 3, "{lines:#?}");
    for (row, worker) in (1..).zip(&status.workers) {
        for (heading, expected) in [
            ("WORKER", worker.id.to_string()),
            ("PID", worker.pid.unwrap().to_string()),
            ("CPU", worker.cpu.unwrap().to_string()),
            ("STATE", "ready".to_owned()),
            ("RESTARTS", "0".to_owned()),
        ] {
            assert_eq!(cell(&workers, row, heading), expected, "{heading}: {lines:#?}");
        }
        assert!(cell(&workers, row, "MEMORY").ends_with(" MB"), "{lines:#?}");
        let generations = cell(&workers, row, "GENERATIONS");
        assert!(generations.contains("m=2") && generations.contains("n=1"), "{lines:#?}");
        assert!(generations.contains("s ago"), "load times: {lines:#?}");
    }
    server.stop().await;
}
