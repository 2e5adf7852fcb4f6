//! Calls the admin interface without the command line: a process per call would take CPU time from
//! the measured server, and its startup would count as part of the update.

use std::{path::Path, time::Instant};

use e2e::{
    admin::{Committed, Refusal, Status},
    control::{self, Call},
    server::Server,
};
use serde::Deserialize;

/// Admin calls for one model.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    calls: control::Control,
    model: String,
}

/// When workers load a version.
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

/// A finished update or rollback.
#[derive(Clone, Debug)]
pub(crate) struct CallResult {
    pub start: Instant,
    pub end: Instant,
    /// Steps with the times at which they were reported.
    pub steps: Vec<(String, Instant)>,
    pub result: Result<Committed, Refusal>,
}

impl Control {
    pub(crate) fn new(server: &Server, model: &str) -> Self {
        Self { calls: control::Control::new(server), model: model.to_owned() }
    }

    /// Equivalent to `onnxd update MODEL --from DIR --load LOAD`.
    pub(crate) async fn update(&self, from: &Path, load: Load) -> Result<CallResult, String> {
        let start = Instant::now();
        read(start, self.calls.update(&self.model, from, load.name()).await).await
    }

    /// Equivalent to `onnxd rollback MODEL`.
    pub(crate) async fn rollback(&self) -> Result<CallResult, String> {
        let start = Instant::now();
        read(start, self.calls.rollback(&self.model).await).await
    }

    /// Equivalent to `onnxd status`.
    pub(crate) async fn status(&self) -> Status {
        self.calls.status().await
    }

    /// Returns whether every worker serves this generation or a newer one.
    pub(crate) async fn switched(&self, generation: u64) -> bool {
        let status = self.status().await;
        let mut serving = status.workers.iter().map(|worker| worker.generations.get(&self.model));
        serving.all(|serves| serves.is_some_and(|serves| *serves >= generation))
    }
}

/// Reads a response to its end and records when each line arrives.
async fn read(start: Instant, mut call: Call) -> Result<CallResult, String> {
    let mut steps = Vec::new();
    while let Some(line) = call.line().await {
        let now = Instant::now();
        if let Some(step) = line["step"].as_str() {
            steps.push((step.to_owned(), now));
            continue;
        }
        let invalid = |error: serde_json::Error| format!("{error}: {line}");
        let result = match line.get("error") {
            Some(error) => Err(Refusal::deserialize(error).map_err(invalid)?),
            None => Ok(Committed::deserialize(&line).map_err(invalid)?),
        };
        return Ok(CallResult { start, end: now, steps, result });
    }
    Err(format!("an update ended without an outcome after {steps:?}"))
}
