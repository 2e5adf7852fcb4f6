//! The admin interface without the command: a process for each call would take CPU time from what
//! is measured, and its start would count as the update's time.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use bytes::Bytes;
use e2e::{
    admin::{Committed, Refusal, Status, WorkerStatus},
    control::{self, Call},
    server::Server,
};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;

/// Whom to call, and about which model.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    calls: control::Control,
    socket: PathBuf,
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
        let (calls, socket) = (control::Control::of(server), server.home().admin_socket());
        Self { calls, socket, model: model.to_owned() }
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

    /// `onnxd status`, on a connection of its own.
    pub(crate) async fn status(&self) -> Result<Status, String> {
        self.watch().await?.status().await
    }

    /// A connection to ask for the status again and again.
    pub(crate) async fn watch(&self) -> Result<Watch, String> {
        let name = |error: &dyn std::fmt::Display| format!("{}: {error}", self.socket.display());
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| name(&error))?;
        let connected = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = connected.map_err(|error| name(&error))?;
        // Its errors reach whoever waits for an answer.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Watch { sender, model: self.model.clone() })
    }
}

/// Reads an answer to its end, and notes when its lines come.
async fn read(start: Instant, mut call: Call) -> Result<Called, String> {
    let mut steps = Vec::new();
    while let Some(line) = call.line().await {
        let now = Instant::now();
        match line["step"].as_str() {
            Some(step) => steps.push((step.to_owned(), now)),
            None => return Ok(Called { start, end: now, steps, result: verdict(&line)? }),
        }
    }
    Err(format!("an update has no outcome, only {steps:?}"))
}

fn verdict(last: &Value) -> Result<Result<Committed, Refusal>, String> {
    let odd = |error: serde_json::Error| format!("{error}: {last}");
    match last.get("error") {
        Some(error) => Ok(Err(Refusal::deserialize(error).map_err(odd)?)),
        None => Ok(Ok(Committed::deserialize(last).map_err(odd)?)),
    }
}

/// An open connection.
pub(crate) struct Watch {
    sender: SendRequest<Full<Bytes>>,
    model: String,
}

impl Watch {
    pub(crate) async fn status(&mut self) -> Result<Status, String> {
        let broken = |error: &dyn std::fmt::Display| format!("status: {error}");
        self.sender.ready().await.map_err(|error| broken(&error))?;
        let request = Request::get("/admin/status")
            .header("host", "onnxd")
            .body(Full::new(Bytes::new()))
            .map_err(|error| broken(&error))?;
        let answer = self.sender.send_request(request).await.map_err(|error| broken(&error))?;
        let body = answer.into_body().collect().await.map_err(|error| broken(&error))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| broken(&error))
    }

    /// Whether every worker serves this generation or a newer one.
    pub(crate) async fn switched(&mut self, generation: u64) -> Result<bool, String> {
        let status = self.status().await?;
        let serves = |worker: &WorkerStatus| {
            worker.generations.get(&self.model).is_some_and(|serves| *serves >= generation)
        };
        Ok(status.workers.iter().all(serves))
    }
}
