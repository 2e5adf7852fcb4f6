//! `onnxd status`.

use onnxd_proto::exit::ExitStatus;
use serde_json::Value;

use super::{StatusArguments, client, say};
use onnxd_proto::exit::Failure;

/// Prints what a supervisor serves, as two tables or as one line of JSON.
///
/// # Errors
/// No supervisor answers.
pub(crate) fn main(arguments: &StatusArguments) -> Result<ExitStatus, Failure> {
    let status = client::call(&arguments.admin, "GET", "/admin/status", &Value::Null, |_| {})?;
    if arguments.admin.json {
        say(&status.to_string());
        return Ok(ExitStatus::Fine);
    }
    if status["sandbox"]["on"] == false {
        say("NOT CONFINED: workers and checkers run with --no-sandbox\n");
    }
    table(&MODEL_COLUMNS, rows(&status["models"]).iter().map(model).collect());
    say("");
    table(&WORKER_COLUMNS, rows(&status["workers"]).iter().map(worker).collect());
    for model in rows(&status["models"]) {
        for version in rows(&model["quarantined"]) {
            let (name, version) = (text(&model["name"]), short(version));
            say(&format!("\n{name}: version {version} failed its probation and is refused"));
        }
    }
    Ok(ExitStatus::Fine)
}

const MODEL_COLUMNS: [&str; 7] =
    ["MODEL", "STATE", "GENERATION", "VERSION", "TASK", "COSINE", "SOURCE"];
const WORKER_COLUMNS: [&str; 7] =
    ["WORKER", "PID", "CPU", "STATE", "RESTARTS", "MEMORY", "GENERATIONS"];

/// COSINE is that to the generation before, the mean over the probe texts.
fn model(model: &Value) -> Vec<String> {
    let cosine = model["drift"]["mean_cosine"].as_f64();
    vec![
        text(&model["name"]),
        text(&model["state"]),
        text(&model["generation"]),
        short(&model["version"]),
        text(&model["task"]),
        cosine.map_or("-".to_owned(), |cosine| format!("{cosine:.4}")),
        text(&model["source"]),
    ]
}

/// MEMORY is the process's own, without the weights that workers share.
fn worker(worker: &Value) -> Vec<String> {
    let memory = worker["memory_bytes"].as_u64();
    let generations = worker["generations"].as_object().into_iter().flatten();
    let generation = |(model, generation): (&String, &Value)| {
        let load = &worker["loads"][model];
        let plain = if load["compiled"] == false { ", not compiled" } else { "" };
        let age = load["seconds_ago"]
            .as_u64()
            .map_or(String::new(), |age| format!(" ({age} s ago{plain})"));
        format!("{model}={generation}{age}")
    };
    vec![
        text(&worker["id"]),
        text(&worker["pid"]),
        text(&worker["cpu"]),
        text(&worker["state"]),
        text(&worker["restarts"]),
        memory.map_or("-".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000)),
        generations.map(generation).collect::<Vec<_>>().join(" "),
    ]
}

/// Prints rows below their headings, each column as wide as its widest cell.
fn table(headings: &[&str], rows: Vec<Vec<String>>) {
    let headings = headings.iter().map(ToString::to_string).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headings).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column).unwrap_or(0);
            format!("{cell:<width$}")
        });
        say(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// As much of a version as people compare.
fn short(version: &Value) -> String {
    let version = text(version);
    version.get(..12).unwrap_or(&version).to_owned()
}
