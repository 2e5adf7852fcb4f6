//! The admin socket without the command: many calls a second, and every step of an update as it
//! happens.

use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, client::conn::http1, http::request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::{
    admin::{Committed, Refusal, Status, Unloaded},
    server::Server,
};

/// The way to a server's admin socket. Each call takes a connection of its own.
#[derive(Clone, Debug)]
pub struct Control {
    socket: PathBuf,
}

/// An update that the server has taken in.
#[derive(Debug)]
pub struct Call {
    answer: Incoming,
    buffer: BytesMut,
}

impl Control {
    /// The way to this server.
    pub fn of(server: &Server) -> Self {
        Self { socket: server.home().admin_socket() }
    }

    /// Asks for an update; `load` is `ahead` or `lazy`.
    ///
    /// # Panics
    /// The server does not take it in.
    pub async fn update(&self, model: &str, from: &Path, load: &str) -> Call {
        self.call(&format!("/admin/models/{model}/update"), &json!({"from": from, "load": load}))
            .await
    }

    /// The same, also to a version that failed its probation.
    ///
    /// # Panics
    /// The server does not take it in.
    pub async fn forced_update(&self, model: &str, from: &Path, load: &str) -> Call {
        let body = json!({"from": from, "load": load, "force": true});
        self.call(&format!("/admin/models/{model}/update"), &body).await
    }

    /// Asks for an unload.
    ///
    /// # Panics
    /// The server does not take it in.
    pub async fn unload(&self, model: &str) -> Call {
        self.call(&format!("/admin/models/{model}/unload"), &json!({})).await
    }

    /// `onnxd status`.
    ///
    /// # Panics
    /// The server does not answer, or something else.
    pub async fn status(&self) -> Status {
        let response = self.request(Request::get("/admin/status"), "").await;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&body).unwrap()
    }

    /// Asks for a rollback to what was served before.
    ///
    /// # Panics
    /// The server does not take it in.
    pub async fn rollback(&self, model: &str) -> Call {
        self.call(&format!("/admin/models/{model}/rollback"), &json!({})).await
    }

    /// Posts any body and gives the status and the JSON that is answered.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let response = self.send(path, body).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn call(&self, path: &str, body: &Value) -> Call {
        let response = self.send(path, &body.to_string()).await;
        assert_eq!(response.status(), 200);
        Call { answer: response.into_body(), buffer: BytesMut::new() }
    }

    async fn send(&self, path: &str, body: &str) -> Response<Incoming> {
        self.request(Request::post(path), body).await
    }

    async fn request(&self, request: request::Builder, body: &str) -> Response<Incoming> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        // Its errors reach whoever reads the answer.
        tokio::spawn(connection);
        let request = request
            .header("host", "onnxd")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        sender.send_request(request).await.unwrap()
    }
}

impl Call {
    /// The next line of the answer, or None after the last.
    ///
    /// # Panics
    /// The answer is cut off or is something else.
    pub async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let value = serde_json::from_slice(&self.buffer[..end]).unwrap();
                self.buffer.advance(end + 1);
                return Some(value);
            }
            let Some(frame) = self.answer.frame().await else {
                assert!(self.buffer.is_empty(), "cut off: {:?}", self.buffer);
                return None;
            };
            self.buffer.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
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
    pub async fn end(self) -> (Vec<String>, Result<Committed, Refusal>) {
        self.outcome().await
    }

    /// The same of an unload.
    ///
    /// # Panics
    /// The answer has no outcome.
    pub async fn end_of_unload(self) -> Result<Unloaded, Refusal> {
        self.outcome().await.1
    }

    async fn outcome<T: DeserializeOwned>(mut self) -> (Vec<String>, Result<T, Refusal>) {
        let (mut steps, mut last) = (Vec::new(), Value::Null);
        while let Some(line) = self.line().await {
            match line["step"].as_str() {
                Some(step) => steps.push(step.to_owned()),
                None => last = line,
            }
        }
        let outcome = match last.get("error") {
            Some(refusal) => Err(serde_json::from_value(refusal.clone()).unwrap()),
            None => Ok(serde_json::from_value(last).unwrap()),
        };
        (steps, outcome)
    }
}
