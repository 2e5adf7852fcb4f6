//! `onnxd status`.

use onnxd_admin::api::{LoadStatus, ModelStatus, Status, Task, WorkerStatus};
use onnxd_proto::exit::{ExitStatus, Failure};

use super::{StatusArguments, client::call, say, update::refused};

/// Prints what a supervisor serves, as two tables or as one line of JSON.
///
/// # Errors
/// No supervisor answers.
pub(crate) fn main(arguments: &StatusArguments) -> Result<ExitStatus, Failure> {
    let answer = call(&arguments.admin, async |client| client.status().await)?;
    if arguments.admin.json {
        say(&answer.json);
    }
    match answer.result {
        Ok(status) if !arguments.admin.json => print(&status),
        Ok(_) => {}
        Err(refusal) => return Err(refused(&refusal)),
    }
    Ok(ExitStatus::Fine)
}

fn print(status: &Status) {
    if !status.sandbox.on {
        say("NOT CONFINED: workers and checkers run with --no-sandbox\n");
    }
    table(&MODEL_COLUMNS, status.models.iter().map(model).collect());
    say("");
    let worker = |worker| self::worker(worker, &status.models);
    table(&WORKER_COLUMNS, status.workers.iter().map(worker).collect());
    for model in &status.models {
        for version in &model.quarantined {
            let (name, version) = (&model.name, short(version));
            say(&format!("\n{name}: version {version} failed its probation and is refused"));
        }
    }
}

const MODEL_COLUMNS: [&str; 7] =
    ["MODEL", "STATE", "GENERATION", "VERSION", "TASK", "COSINE", "SOURCE"];
const WORKER_COLUMNS: [&str; 7] =
    ["WORKER", "PID", "CPU", "STATE", "RESTARTS", "MEMORY", "GENERATIONS"];

/// A row of the models. COSINE is the mean over the probe texts, to the generation before.
fn model(model: &ModelStatus) -> Vec<String> {
    let version = Some(short(&model.version)).filter(|version| !version.is_empty());
    vec![
        model.name.clone(),
        model.state.to_string(),
        model.generation.to_string(),
        or_dash(version),
        or_dash(model.task.map(Task::as_str)),
        or_dash(model.drift.map(|drift| format!("{:.4}", drift.mean_cosine))),
        model.source.clone(),
    ]
}

/// A row of the workers. MEMORY is private to the process, without the weights that workers share.
fn worker(worker: &WorkerStatus, models: &[ModelStatus]) -> Vec<String> {
    // In the order of the models, which is that of the configuration.
    let generation = |model: &ModelStatus| {
        let generation = worker.generations.get(&model.name)?;
        let age = worker.loads.get(&model.name).map_or(String::new(), age);
        Some(format!("{}={generation}{age}", model.name))
    };
    let generations: Vec<String> = models.iter().filter_map(generation).collect();
    vec![
        worker.id.to_string(),
        or_dash(worker.pid),
        or_dash(worker.cpu),
        worker.state.to_string(),
        worker.restarts.to_string(),
        or_dash(worker.memory_bytes.map(|bytes| format!("{} MB", bytes / 1_000_000))),
        generations.join(" "),
    ]
}

/// Since when a worker serves what it loaded.
fn age(load: &LoadStatus) -> String {
    let plain = if load.compiled { "" } else { ", not compiled" };
    load.seconds_ago.map_or(String::new(), |age| format!(" ({age} s ago{plain})"))
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

/// The value, or a dash if there is none.
fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// As much of a version as people compare.
fn short(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}
