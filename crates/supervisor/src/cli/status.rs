//! `onnxd status`.

use onnxd_proto::exit::ExitStatus;
use serde_json::Value;

use super::{StatusArguments, client, say};
use crate::Failure;

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
    say(&format!("{:<20} {:>10}  {:<12}  {:<6} SOURCE", "MODEL", "GENERATION", "VERSION", "TASK"));
    for model in rows(&status["models"]) {
        let version = text(&model["version"]);
        say(&format!(
            "{:<20} {:>10}  {:<12}  {:<6} {}",
            text(&model["name"]),
            text(&model["generation"]),
            version.get(..12).unwrap_or(&version),
            text(&model["task"]),
            text(&model["source"]),
        ));
    }
    say("");
    say(&format!(
        "{:<6} {:>8} {:>4}  {:<9} {:>8}  GENERATIONS",
        "WORKER", "PID", "CPU", "STATE", "RESTARTS"
    ));
    for worker in rows(&status["workers"]) {
        let generations = worker["generations"].as_object().into_iter().flatten();
        let generations: Vec<String> =
            generations.map(|(model, generation)| format!("{model}={generation}")).collect();
        say(&format!(
            "{:<6} {:>8} {:>4}  {:<9} {:>8}  {}",
            text(&worker["id"]),
            text(&worker["pid"]),
            text(&worker["cpu"]),
            text(&worker["state"]),
            text(&worker["restarts"]),
            generations.join(" "),
        ));
    }
    Ok(ExitStatus::Fine)
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
