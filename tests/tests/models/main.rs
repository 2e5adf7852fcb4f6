//! Encoders of every common kind: the directories in `tests/models`, with the results of their
//! reference libraries. Each is served with those results or refused with a reason.

mod broken;
mod every_directory;
mod small_inputs;
mod updates;
mod variants;

use e2e::{
    client::Client,
    expected::{Case, Directory, Limit, cases, names},
    launch::Builder,
    server::Server,
};
use serde_json::Value;

const FAULTS_SHOWN_MAX: usize = 80;

/// Returns the tolerance for vectors: that of float32, or the one in `expected.json`.
fn limit(directory: &Directory) -> Limit {
    let tolerance = directory.expected["tolerance"].as_f64();
    match (directory.name.as_str(), tolerance) {
        // ONNX Runtime itself deviates this much from the reference on another CPU.
        ("quantized-only", _) => Limit { difference: 0.1, cosine: 0.97 },
        (_, Some(tolerance)) => serde_json::from_value(tolerance.into())
            .map_or(Limit::FLOAT32, |difference| Limit { difference, cosine: 0.999 }),
        _ => Limit::FLOAT32,
    }
}

/// Returns the directories whose task in `expected.json` satisfies `wanted`.
fn directories(builder: &Builder, wanted: impl Fn(&str) -> bool) -> Vec<Directory> {
    let scratch = builder.directories().models();
    let all = names().into_iter().map(|name| Directory::open(&name, &scratch));
    all.filter(|one| wanted(one.expected["task"].as_str().unwrap_or_default())).collect()
}

/// Starts a server of these directories, each under its name. Models are loaded on the first
/// request, so that a refused one does not affect the others.
async fn serve(builder: Builder, directories: &[Directory]) -> Server {
    let add = |builder: Builder, one: &Directory| builder.model(&one.name, &one.path);
    directories.iter().fold(builder.argument("--preload=none"), add).start().await
}

/// Returns a case's body for this model.
fn body(case: &Case, model: &str) -> Value {
    let mut body = case.body.clone();
    body["model"] = model.into();
    body
}

/// Returns the fault in a model's answer to a case, if any.
async fn fault(client: &mut Client, model: &str, case: &Case) -> Option<String> {
    let response = match client.post(case.path, &body(case, model)).await {
        Ok(response) => response,
        Err(unanswered) => return Some(format!("{model}: {}: {unanswered}", case.what)),
    };
    let outcome = if response.status == 200 {
        let rows = case.reading.rows(&response.json());
        rows.and_then(|rows| case.limit.check(&rows, &case.reference))
    } else {
        Err(format!("{} {:.300}", response.status, response.text()))
    };
    outcome.err().map(|reason| format!("{model}: {}, {}: {reason}", case.path, case.what))
}

/// Sends each case once and returns all faults.
async fn faults(client: &mut Client, model: &str, cases: &[Case]) -> Vec<String> {
    let mut faults = Vec::new();
    for case in cases {
        faults.extend(fault(client, model, case).await);
    }
    faults
}

/// Panics with the first faults, if there are any.
#[track_caller]
fn assert_none(faults: &[String]) {
    let shown = &faults[..faults.len().min(FAULTS_SHOWN_MAX)];
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), shown.join("\n"));
}

/// Returns the cases of a directory's `expected.json`.
fn cases_of(directory: &Directory) -> Vec<Case> {
    cases(directory, limit(directory))
}
