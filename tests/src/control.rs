//! The admin socket without the command: many calls a second, and every step of an update as it
//! happens. A client of `onnxd-admin` whose failures fail the test.

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

/// The way to a server's admin socket. Each call takes its own connection.
#[derive(Clone, Debug)]
pub struct Control {
    client: Client,
}

/// A call whose response has begun.
#[derive(Debug)]
pub struct Call {
    response: client::Call,
}

impl Control {
    /// The way to this server.
    pub fn of(server: &Server) -> Self {
        Self { client: Client::at(server.home().admin_socket()) }
    }

    /// The client beneath.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Asks for an update; `load` is `ahead` or `lazy`.
    ///
    /// # Panics
    /// The server does not respond.
    pub async fn update(&self, model: &str, from: &Path, load: &str) -> Call {
        self.ask(model, from, load, false).await
    }

    /// The same, even to a version that failed its probation.
    ///
    /// # Panics
    /// The server does not respond.
    pub async fn forced_update(&self, model: &str, from: &Path, load: &str) -> Call {
        self.ask(model, from, load, true).await
    }

    async fn ask(&self, model: &str, from: &Path, load: &str, force: bool) -> Call {
        let load = match load {
            "ahead" => Load::Ahead,
            "lazy" => Load::Lazy,
            other => panic!("{other} is neither ahead nor lazy"),
        };
        let from = Some(from.to_str().unwrap().to_owned());
        let call = UpdateCall { from, load, force, ..UpdateCall::default() };
        Call { response: self.client.update(model, &call).await.unwrap() }
    }

    /// Asks for a rollback to what was served before.
    ///
    /// # Panics
    /// The server does not respond.
    pub async fn rollback(&self, model: &str) -> Call {
        let call = RollbackCall::default();
        Call { response: self.client.rollback(model, &call).await.unwrap() }
    }

    /// Unloads a model. The call has ended when this returns.
    ///
    /// # Panics
    /// The server does not respond.
    pub async fn unload(&self, model: &str) -> Unload {
        let answer = self.client.unload(model).await.unwrap();
        Unload(answer.result.map_err(|_| refusal(&answer.json)))
    }

    /// `onnxd status`.
    ///
    /// # Panics
    /// The server does not answer, or something else.
    pub async fn status(&self) -> Status {
        self.client.status().await.unwrap().result.unwrap().into()
    }

    /// Posts any body and gives the status and the JSON that is answered.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let body = body.to_owned().into();
        let response = self.client.send(Method::POST, path, body).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

/// What came of an unload.
#[derive(Debug)]
pub struct Unload(Result<Unloaded, Refusal>);

impl Unload {
    /// The outcome.
    ///
    /// # Errors
    /// The refusal.
    #[expect(clippy::unused_async, reason = "it is read like an update's outcome")]
    pub async fn end_of_unload(self) -> Result<Unloaded, Refusal> {
        self.0
    }
}

impl Call {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The next line of the answer, or None after the last.
    ///
    /// # Panics
    /// The answer is cut off or is something else.
    pub async fn line(&mut self) -> Option<Value> {
        let line = self.response.next_text().await.unwrap()?;
        Some(serde_json::from_str(&line).unwrap())
    }

    /// Reads until a step of this name, and gives it.
    ///
    /// # Panics
    /// The update ends before.
    pub async fn step(&mut self, name: &str) -> Value {
        loop {
            let line = self.line().await.unwrap_or_else(|| panic!("it ended before {name}"));
            assert!(line.get("step").is_some(), "it ended before {name}: {line}");
            if line["step"] == name {
                return line;
            }
        }
    }

    /// Reads to the end: the names of the steps, and the outcome.
    ///
    /// # Panics
    /// The answer has no outcome.
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

/// The refusal in a line.
fn refusal(line: &str) -> Refusal {
    let line: Value = serde_json::from_str(line).unwrap();
    serde_json::from_value(line["error"].clone()).unwrap()
}
