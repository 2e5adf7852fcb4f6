//! The alert rules and the dashboard in `deploy/` fit the metrics that onnxd exposes. What needs
//! promtool is skipped with a message where it is missing.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod capacity;
mod queries;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use e2e::fixtures::workspace;
use serde_json::Value;

use crate::queries::{Selector, selectors};

/// Labels that Prometheus adds, and the one of buckets.
const ADDED_LABELS: [&str; 3] = ["job", "instance", "le"];

fn deploy() -> PathBuf {
    workspace().join("deploy")
}

fn rules() -> String {
    fs::read_to_string(deploy().join("prometheus/onnxd.rules.yml")).unwrap()
}

fn dashboard() -> Value {
    let text = fs::read(deploy().join("grafana/onnxd.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Returns every PromQL query below a part of the dashboard.
fn dashboard_queries(part: &Value) -> Vec<&str> {
    match part {
        Value::Object(fields) => {
            let own = fields.get("expr").and_then(Value::as_str);
            own.into_iter().chain(fields.values().flat_map(dashboard_queries)).collect()
        }
        Value::Array(elements) => elements.iter().flat_map(dashboard_queries).collect(),
        _ => Vec::new(),
    }
}

/// Returns the names of metrics in docs/metrics.md, with their labels. A test of `/metrics` compares
/// the document with a server.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let document = fs::read_to_string(workspace().join("docs/metrics.md")).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut metrics = BTreeMap::new();
    for (name, rest) in rows {
        let cells: Vec<&str> = rest.split('|').map(str::trim).collect();
        let labels = cells[1].split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels: BTreeSet<String> = labels.filter(|label| !label.is_empty()).collect();
        let suffixes: &[&str] = match cells[0] {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        metrics.extend(suffixes.iter().map(|suffix| (format!("{name}{suffix}"), labels.clone())));
    }
    assert!(metrics.len() > 50, "only {} metrics", metrics.len());
    metrics
}

/// Returns what is wrong with a metric and its labels.
fn wrong(selector: &Selector<'_>, known: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    let Selector { name, labels } = selector;
    let Some(known) = known.get(*name) else { return Some(format!("unknown metric {name}")) };
    let unknown = |label: &&&str| !known.contains(**label) && !ADDED_LABELS.contains(*label);
    labels.iter().find(unknown).map(|label| format!("{name} has no label {label}"))
}

#[test]
fn rules_and_dashboard_name_only_documented_metrics() {
    let (rules, dashboard, known) = (rules(), dashboard(), documented());
    let mut texts = dashboard_queries(&dashboard);
    assert!(texts.len() > 40, "only {} queries", texts.len());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    texts.extend(variables.iter().filter_map(|variable| variable["definition"].as_str()));
    texts.extend(rules.lines().filter(|line| !line.trim().starts_with('#')));
    let found: Vec<Selector<'_>> = texts.into_iter().flat_map(selectors).collect();
    assert!(found.len() > 90, "only {} metrics", found.len());
    let wrong: BTreeSet<String> =
        found.iter().filter_map(|selector| wrong(selector, &known)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_dashboard_has_both_variables_and_annotations() {
    let dashboard = dashboard();
    let names = |part: &Value| -> Vec<String> {
        let list = part["list"].as_array().unwrap().iter();
        list.map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&dashboard["templating"]), ["datasource", "instance", "model"]);
    let annotations = names(&dashboard["annotations"]);
    assert_eq!(annotations[1..], ["Commits", "Automatic rollbacks"]);
    // A panel that ignores the variable would mix servers.
    let queries = dashboard_queries(&dashboard);
    let mixed: Vec<_> = queries.iter().filter(|query| !query.contains("$instance")).collect();
    assert!(mixed.is_empty(), "{mixed:#?}");
}

#[test]
fn every_rule_has_a_test_and_every_alert_a_row() {
    let (rules, tests) =
        (rules(), fs::read_to_string(deploy().join("prometheus/onnxd_test.yml")).unwrap());
    let document = fs::read_to_string(workspace().join("docs/operating.md")).unwrap();
    let named = |key: &str| -> Vec<String> {
        let lines = rules.lines().map(|line| line.trim().trim_start_matches("- "));
        lines.filter_map(|line| line.strip_prefix(key)).map(|name| name.trim().to_owned()).collect()
    };
    let (alerts, records) = (named("alert:"), named("record:"));
    assert!(alerts.len() > 10 && records.len() > 5, "{alerts:?} {records:?}");
    for alert in alerts {
        let firing = format!("alertname=\"{alert}\", alertstate=\"firing\"");
        assert!(tests.contains(&firing), "no test in which {alert} fires");
        assert!(document.contains(&format!("| `{alert}` |")), "{alert} in docs/operating.md");
    }
    for record in records {
        assert!(tests.contains(&record), "no test of {record}");
    }
}

/// Runs promtool. Returns `None` if it is not installed.
fn promtool(folder: &Path, arguments: &[&str], input: Option<&str>) -> Option<String> {
    if !Command::new("promtool").arg("--version").output().is_ok_and(|done| done.status.success()) {
        eprintln!("skipped: promtool is not installed (Debian's package prometheus)");
        return None;
    }
    let text = folder.join("input");
    fs::write(&text, input.unwrap_or_default()).unwrap();
    let stdin = Stdio::from(fs::File::open(&text).unwrap());
    let output = Command::new("promtool").args(arguments).stdin(stdin).output().unwrap();
    let shown = [output.stdout, output.stderr].concat();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {shown}");
    Some(shown)
}

#[test]
fn the_rules_pass_their_tests() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| deploy().join("prometheus").join(name).display().to_string();
    let arguments = ["check", "rules", &path("onnxd.rules.yml")];
    let Some(checked) = promtool(folder.path(), &arguments, None) else { return };
    assert!(checked.contains("SUCCESS"), "{checked}");
    let tested = promtool(folder.path(), &["test", "rules", &path("onnxd_test.yml")], None);
    assert!(tested.unwrap().contains("SUCCESS"));
}

#[test]
fn every_query_of_the_dashboard_is_valid() {
    let (folder, dashboard) = (tempfile::tempdir().unwrap(), dashboard());
    let queries = dashboard_queries(&dashboard);
    let rules = queries.iter().enumerate().map(|(index, query)| {
        // Grafana replaces its variables.
        let query = query.replace("$__rate_interval", "1m").replace(['$'], "");
        format!("  - record: query:{index}\n    expr: {}\n", Value::from(query))
    });
    let text = format!("groups:\n- name: queries\n  rules:\n{}", rules.collect::<String>());
    let file = folder.path().join("queries.yml");
    fs::write(&file, text).unwrap();
    let arguments = ["check", "rules", file.to_str().unwrap()];
    let Some(checked) = promtool(folder.path(), &arguments, None) else { return };
    assert!(checked.contains(&format!("{} rules found", queries.len())), "{checked}");
}
