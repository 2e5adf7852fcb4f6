//! The admin interface without the command: a process for each call would take CPU time from what
//! is measured, and its start would count as the update's time.

use std::{path::Path, time::Instant};

use e2e::{
    admin::{Committed, Refusal, Status},
    control::{self, Call},
    server::Server,
};
use serde::Deserialize;

/// Calls about one model.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    calls: control::Control,
    model: String,
}

/// When workers load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Ahead,
    Lazy,
}

impl Load {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ahead => "ahead",
            Self::Lazy => "lazy",
        }
    }
}

/// An update or rollback that has returned.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub start: Instant,
    pub end: Instant,
    /// What it told on the way, and when that arrived.
    pub steps: Vec<(String, Instant)>,
    pub result: Result<Committed, Refusal>,
}

impl Control {
    pub(crate) fn of(server: &Server, model: &str) -> Self {
        Self { calls: control::Control::of(server), model: model.to_owned() }
    }

    /// `onnxd update MODEL --from DIR --load LOAD`.
    pub(crate) async fn update(&self, from: &Path, load: Load) -> Result<Called, String> {
        let start = Instant::now();
        read(start, self.calls.update(&self.model, from, load.name()).await).await
    }

    /// `onnxd rollback MODEL`.
    pub(crate) async fn rollback(&self) -> Result<Called, String> {
        let start = Instant::now();
        read(start, self.calls.rollback(&self.model).await).await
    }

    /// `onnxd status`.
    pub(crate) async fn status(&self) -> Status {
        self.calls.status().await
    }

    /// Whether every worker serves this generation or a newer one.
    pub(crate) async fn switched(&self, generation: u64) -> bool {
        let status = self.status().await;
        let mut serving = status.workers.iter().map(|worker| worker.generations.get(&self.model));
        serving.all(|serves| serves.is_some_and(|serves| *serves >= generation))
    }
}

/// Reads an answer to its end, and notes when its lines come.
async fn read(start: Instant, mut call: Call) -> Result<Called, String> {
    let mut steps = Vec::new();
    while let Some(line) = call.line().await {
        let now = Instant::now();
        if let Some(step) = line["step"].as_str() {
            steps.push((step.to_owned(), now));
            continue;
        }
        let odd = |error: serde_json::Error| format!("{error}: {line}");
        let result = match line.get("error") {
            Some(error) => Err(Refusal::deserialize(error).map_err(odd)?),
            None => Ok(Committed::deserialize(&line).map_err(odd)?),
        };
        return Ok(Called { start, end: now, steps, result });
    }
    Err(format!("an update has no outcome, only {steps:?}"))
}
