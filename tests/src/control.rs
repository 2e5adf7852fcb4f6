//! Uses the admin socket directly rather than the command: for many calls a second, and to see each
//! step of an update. Wraps the client of `onnxd-admin`; its failures panic.

use std::path::Path;

use http_body_util::BodyExt;
use hyper::Method;
use onnxd_admin::{
    api::{Load, RollbackCall, UpdateCall},
    client::{self, Client},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    admin::{Committed, Refusal, Status, Unloaded},
    server::Server,
};

/// A client of a server's admin socket. Each call uses its own connection.
#[derive(Clone, Debug)]
pub struct Control {
    client: Client,
}

/// A call whose response has started.
#[derive(Debug)]
pub struct Call {
    response: client::Call,
}

impl Control {
    /// Returns the client for this server.
    pub fn new(server: &Server) -> Self {
        Self { client: Client::at(server.home().admin_socket()) }
    }

    /// Returns the underlying client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Starts an update; `load` is `ahead` or `lazy`.
    ///
    /// # Panics
    /// Panics if the server does not respond.
    pub async fn update(&self, model: &str, from: &Path, load: &str) -> Call {
        self.start_update(model, from, load, false).await
    }

    /// Starts an update, even to a version that failed its probation.
    ///
    /// # Panics
    /// Panics if the server does not respond.
    pub async fn forced_update(&self, model: &str, from: &Path, load: &str) -> Call {
        self.start_update(model, from, load, true).await
    }

    async fn start_update(&self, model: &str, from: &Path, load: &str, force: bool) -> Call {
        let load = match load {
            "ahead" => Load::Ahead,
            "lazy" => Load::Lazy,
            other => panic!("load: expected ahead or lazy, got {other}"),
        };
        let call = UpdateCall {
            from: Some(from.display().to_string()),
            load,
            force,
            ..UpdateCall::default()
        };
        Call { response: self.client.update(model, &call).await.unwrap() }
    }

    /// Starts a rollback to the previous version.
    ///
    /// # Panics
    /// Panics if the server does not respond.
    pub async fn rollback(&self, model: &str) -> Call {
        let call = RollbackCall::default();
        Call { response: self.client.rollback(model, &call).await.unwrap() }
    }

    /// Unloads a model and waits for the end of the call.
    ///
    /// # Panics
    /// Panics if the server does not respond.
    pub async fn unload(&self, model: &str) -> Unload {
        let answer = self.client.unload(model).await.unwrap();
        Unload(answer.result.map_err(|_| refusal(&answer.json)))
    }

    /// Returns `onnxd status`.
    ///
    /// # Panics
    /// Panics if the answer is missing or malformed.
    pub async fn status(&self) -> Status {
        self.client.status().await.unwrap().result.unwrap().into()
    }

    /// Posts a body and returns the status and the JSON answer.
    ///
    /// # Panics
    /// Panics if the server does not answer.
    pub async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let body = body.to_owned().into();
        let response = self.client.send(Method::POST, path, body).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

/// The result of an unload.
#[derive(Debug)]
pub struct Unload(Result<Unloaded, Refusal>);

impl Unload {
    /// Returns the outcome.
    ///
    /// # Errors
    /// Fails with the refusal.
    #[expect(clippy::unused_async, reason = "same interface as an update's outcome")]
    pub async fn end(self) -> Result<Unloaded, Refusal> {
        self.0
    }
}

impl Call {
    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Returns the next line of the answer, or `None` after the last.
    ///
    /// # Panics
    /// Panics if the answer is truncated or malformed.
    pub async fn line(&mut self) -> Option<Value> {
        let line = self.response.next_text().await.unwrap()?;
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Reads up to the step of this name and returns it.
    ///
    /// # Panics
    /// Panics if the update ends first.
    pub async fn step(&mut self, name: &str) -> Value {
        loop {
            let line =
                self.line().await.unwrap_or_else(|| panic!("the update ended before step {name}"));
            assert!(line.get("step").is_some(), "the update ended before step {name}: {line}");
            if line["step"] == name {
                return line;
            }
        }
    }

    /// Reads to the end. Returns the names of the steps and the outcome.
    ///
    /// # Panics
    /// Panics if the answer has no outcome.
    pub async fn end(mut self) -> (Vec<String>, Result<Committed, Refusal>) {
        let (mut steps, mut last) = (Vec::new(), Value::Null);
        while let Some(line) = self.line().await {
            match line["step"].as_str() {
                Some(step) => steps.push(step.to_owned()),
                None => last = line,
            }
        }
        (steps, outcome(&last))
    }
}

fn outcome<T: DeserializeOwned>(last: &Value) -> Result<T, Refusal> {
    match last.get("error") {
        Some(_) => Err(refusal(&last.to_string())),
        None => Ok(T::deserialize(last).unwrap()),
    }
}

/// Parses the refusal in a line.
fn refusal(line: &str) -> Refusal {
    let line: Value = serde_json::from_str(line).unwrap();
    serde_json::from_value(line["error"].clone()).unwrap()
}
