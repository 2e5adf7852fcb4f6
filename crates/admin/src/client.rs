//! A client of the admin interface. Each call takes a connection; a stream is read line by line as
//! the lines arrive. Used by the command line, end-to-end tests, the soak and benchmarks.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned, de::IgnoredAny};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::{Instant, sleep},
};

use crate::api::{
    JSON, Outcome, Refusal, RefusalKind, RollbackCall, STATUS_PATH, Status, Step, Unloaded,
    UpdateCall, Verb,
};

/// Bytes of one line of a response.
const LINE_BYTES_MAX: usize = 1 << 20;
/// How long a supervisor may take to hand over to its successor.
const SUCCESSION_MAX: Duration = Duration::from_secs(60);
/// The pause before the successor is asked.
const SUCCESSION_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum Error {
    /// Nothing accepts a connection. Each place that was tried, with the reason.
    #[error("no supervisor answers ({})", tried.join("; "))]
    Unreachable {
        /// In the order in which they were tried.
        tried: Vec<String>,
    },
    /// The connection broke before the response was complete.
    #[error("the supervisor's answer broke off: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The response is not JSON.
    #[error("the supervisor answers something else than JSON: {0}")]
    NotJson(String),
    /// The response is JSON that this release does not understand.
    #[error("the supervisor answers {0}")]
    Unexpected(String),
}

impl Error {
    fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Broken(error.into())
    }
}

/// The way to a supervisor.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
}

#[derive(Clone, Debug)]
enum Endpoint {
    /// The first of these sockets that accepts.
    Sockets(Vec<PathBuf>),
    /// `--admin-listen`.
    Tcp { address: SocketAddr, token: Secret },
}

/// A token, which nothing prints.
#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A response, as text and as what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// The line of JSON, as it came: with fields that this release does not know.
    pub json: String,
    /// What was done, or why not.
    pub result: Result<T, Refusal>,
}

/// A line of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A step was taken. `None`: one that this release does not know.
    Step(Option<Step>),
    /// The last line.
    End(Result<Outcome, Refusal>),
}

impl Client {
    /// A client of the supervisor at this socket.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self::at_first_of(vec![socket.into()])
    }

    /// A client of the supervisor at the first of these sockets that accepts.
    pub fn at_first_of(sockets: Vec<PathBuf>) -> Self {
        Self { endpoint: Endpoint::Sockets(sockets) }
    }

    /// A client of the supervisor whose `--admin-listen` is this address.
    pub fn tcp(address: SocketAddr, token: impl Into<String>) -> Self {
        Self { endpoint: Endpoint::Tcp { address, token: Secret(token.into()) } }
    }

    /// Asks what is served.
    ///
    /// # Errors
    /// No supervisor answers, or not as documented.
    pub async fn status(&self) -> Result<Answer<Status>, Error> {
        answer(self.send(Method::GET, STATUS_PATH, Bytes::new()).await?).await
    }

    /// Updates a model. Returns when the supervisor has begun its response.
    ///
    /// # Errors
    /// No supervisor answers.
    pub async fn update(&self, model: &str, call: &UpdateCall) -> Result<Call, Error> {
        self.begin(Verb::Update, model, call).await
    }

    /// Rolls a model back. Returns when the supervisor has begun its response.
    ///
    /// # Errors
    /// No supervisor answers.
    pub async fn rollback(&self, model: &str, call: &RollbackCall) -> Result<Call, Error> {
        self.begin(Verb::Rollback, model, call).await
    }

    /// Unloads a model.
    ///
    /// # Errors
    /// No supervisor answers, or not as documented.
    pub async fn unload(&self, model: &str) -> Result<Answer<Unloaded>, Error> {
        let path = Verb::Unload.path(model);
        answer(self.send(Method::POST, &path, Bytes::from_static(b"{}")).await?).await
    }

    async fn begin(&self, verb: Verb, model: &str, call: &impl Serialize) -> Result<Call, Error> {
        let body = serde_json::to_vec(call).map_err(Error::broken)?;
        let response = self.send(Method::POST, &verb.path(model), body.into()).await?;
        Ok(Call { status: response.status(), lines: Lines::of(response) })
    }

    /// Sends any request with a JSON body. Returns when the head of the response is there.
    ///
    /// # Errors
    /// No supervisor answers.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, JSON);
        match &self.endpoint {
            Endpoint::Sockets(sockets) => {
                let request = request.header(HOST, "onnxd").body(Full::new(body));
                let stream = connect(sockets).await?;
                converse(stream, request.map_err(Error::broken)?).await
            }
            Endpoint::Tcp { address, token: Secret(token) } => {
                let request = request
                    .header(HOST, address.to_string())
                    .header(AUTHORIZATION, format!("Bearer {token}"))
                    .body(Full::new(body));
                let stream = TcpStream::connect(address).await;
                let unreachable = |error| unreachable(&address.to_string(), &error);
                converse(stream.map_err(unreachable)?, request.map_err(Error::broken)?).await
            }
        }
    }
}

fn unreachable(place: &str, error: &io::Error) -> Error {
    Error::Unreachable { tried: vec![format!("{place}: {error}")] }
}

async fn connect(sockets: &[PathBuf]) -> Result<UnixStream, Error> {
    let mut tried = Vec::new();
    for path in sockets {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) => tried.push(format!("{}: {error}", path.display())),
        }
    }
    Err(Error::Unreachable { tried })
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Error> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(Error::broken)?;
    // Its errors reach the reader of the response.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(Error::broken)
}

/// An update or rollback whose response has begun.
#[derive(Debug)]
pub struct Call {
    status: StatusCode,
    lines: Lines,
}

impl Call {
    /// The HTTP status: not 200 where the call was refused before its first step.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The next line as text, or `None` after the last.
    ///
    /// # Errors
    /// The response broke off.
    pub async fn next_text(&mut self) -> Result<Option<String>, Error> {
        self.lines.next().await
    }

    /// Reads to the end, and hands each step to `each` when it arrives.
    ///
    /// # Errors
    /// The response broke off, or is not as documented.
    pub async fn end(mut self, mut each: impl FnMut(&Step)) -> Result<Answer<Outcome>, Error> {
        while let Some(json) = self.lines.next().await? {
            match Line::parse(&json)? {
                Line::Step(Some(step)) => each(&step),
                Line::Step(None) => {}
                Line::End(result) => return Ok(Answer { json, result }),
            }
        }
        Err(Error::broken("it has no last line"))
    }
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    /// It is neither a step nor an outcome nor a refusal.
    pub fn parse(json: &str) -> Result<Self, Error> {
        let marks: Marks = serde_json::from_str(json).map_err(|_| not_json(json))?;
        Ok(match marks.step {
            Some(_) => Self::Step(serde_json::from_str(json).ok()),
            None => Self::End(verdict(json)?),
        })
    }
}

/// What tells lines apart.
#[derive(Deserialize)]
struct Marks {
    step: Option<IgnoredAny>,
    error: Option<ErrorForm>,
}

/// The forms that errors have.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorForm {
    Refusal(Refusal),
    /// Of a kind that a newer supervisor knows.
    Message {
        message: String,
    },
    /// As the guard of `--admin-listen` and Triton's clients have it.
    Text(String),
}

impl From<ErrorForm> for Refusal {
    fn from(form: ErrorForm) -> Self {
        match form {
            ErrorForm::Refusal(refusal) => refusal,
            ErrorForm::Message { message } | ErrorForm::Text(message) => {
                RefusalKind::Internal.because(message)
            }
        }
    }
}

fn not_json(text: &str) -> Error {
    Error::NotJson(text.trim_end().to_owned())
}

fn verdict<T: DeserializeOwned>(json: &str) -> Result<Result<T, Refusal>, Error> {
    let marks: Marks = serde_json::from_str(json).map_err(|_| not_json(json))?;
    match marks.error {
        Some(error) => Ok(Err(error.into())),
        None => serde_json::from_str(json).map(Ok).map_err(|_| Error::Unexpected(json.to_owned())),
    }
}

async fn answer<T: DeserializeOwned>(response: Response<Incoming>) -> Result<Answer<T>, Error> {
    let body = response.into_body().collect().await.map_err(Error::broken)?.to_bytes();
    let json = text(&body)?.trim_end().to_owned();
    let result = verdict(&json)?;
    Ok(Answer { json, result })
}

fn text(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| not_json(&String::from_utf8_lossy(bytes)))
}

/// Splits a body into lines as they arrive.
#[derive(Debug)]
struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    fn of(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), buffer: BytesMut::new() }
    }

    async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = text(&self.buffer[..end])?.to_owned();
                self.buffer.advance(end + 1);
                return Ok(Some(line));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(Error::broken("a line is too long"));
            }
            let Some(frame) = self.body.frame().await else {
                // The last line may end with the body.
                let rest = self.buffer.split();
                return if rest.is_empty() { Ok(None) } else { Ok(Some(text(&rest)?.to_owned())) };
            };
            if let Ok(data) = frame.map_err(Error::broken)?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

/// Repeats a call for as long as a supervisor refuses it because its successor takes over.
///
/// # Errors
/// Those of the call.
pub async fn across_succession<T>(
    mut call: impl AsyncFnMut() -> Result<Answer<T>, Error>,
) -> Result<Answer<T>, Error> {
    let begin = Instant::now();
    loop {
        let answer = call().await?;
        let hands_over = answer.result.as_ref().is_err_and(is_handing_over);
        if !hands_over || begin.elapsed() > SUCCESSION_MAX {
            return Ok(answer);
        }
        sleep(SUCCESSION_PAUSE).await;
    }
}

/// Returns whether a refusal asks to retry with the successor.
fn is_handing_over(refusal: &Refusal) -> bool {
    /// What release 0.1.0, which has no kind for it, says instead. Remove it when no supervisor of
    /// that release can be upgraded from any more.
    const SENTENCE_OF_0_1_0: &str = "a successor takes over; ask again";
    match refusal.kind {
        RefusalKind::HandingOver => true,
        RefusalKind::Busy => refusal.message == SENTENCE_OF_0_1_0,
        _ => false,
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
