//! A client of the admin interface. Each call opens a connection; streams are read line by line as
//! they arrive. Used by the command line, end-to-end tests, the soak and benchmarks.

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
    time::{Instant, sleep, timeout},
};

use crate::api::{
    Cancelled, JSON, Outcome, Refusal, RefusalKind, RollbackCall, STATUS_PATH, Status, Step,
    Unloaded, UpdateCall, Verb,
};

/// Maximum bytes of one response line.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Maximum time for a handover to the successor.
const SUCCESSION_MAX: Duration = Duration::from_secs(60);
/// Pause before retrying with the successor.
const SUCCESSION_PAUSE: Duration = Duration::from_millis(100);

/// Why a call has no response.
#[derive(Debug, Error)]
pub enum Error {
    /// No endpoint accepts a connection. Lists each endpoint tried, with the reason.
    #[error("cannot reach a supervisor ({})", tried.join("; "))]
    Unreachable {
        /// Endpoints in the order tried.
        tried: Vec<String>,
    },
    /// No response arrived in time.
    #[error("the supervisor accepted the call but did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection broke before the response was complete.
    #[error("the supervisor's response was cut off: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The response is not JSON.
    #[error("expected JSON from the supervisor, got: {0}")]
    NotJson(String),
    /// The response is JSON of an unknown form.
    #[error("unexpected response from the supervisor: {0}")]
    Unexpected(String),
}

impl Error {
    fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Broken(error.into())
    }
}

/// A connection to a supervisor's admin interface.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
}

#[derive(Clone, Debug)]
enum Endpoint {
    /// Use the first of these sockets that accepts.
    Sockets(Vec<PathBuf>),
    /// Use the address of `--admin-listen`.
    Tcp { address: SocketAddr, token: Secret },
}

/// A token that is never printed.
#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A response, raw and parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply<T> {
    /// The line of JSON as received, including fields that this release does not know.
    pub json: String,
    /// The result, or the refusal.
    pub result: Result<T, Refusal>,
}

/// A line of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A step; `None` if this release does not know it.
    Step(Option<Step>),
    /// The last line.
    End(Result<Outcome, Refusal>),
}

impl Client {
    /// Creates a client for the supervisor at this socket.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self::at_first_of(vec![socket.into()])
    }

    /// Creates a client for the first of these sockets that accepts.
    pub fn at_first_of(sockets: Vec<PathBuf>) -> Self {
        Self { endpoint: Endpoint::Sockets(sockets) }
    }

    /// Creates a client for the supervisor whose `--admin-listen` is this address.
    pub fn tcp(address: SocketAddr, token: impl Into<String>) -> Self {
        Self { endpoint: Endpoint::Tcp { address, token: Secret(token.into()) } }
    }

    /// Returns the supervisor's status.
    ///
    /// # Errors
    /// No supervisor responds, or the response is malformed.
    pub async fn status(&self) -> Result<Reply<Status>, Error> {
        answer(self.send(Method::GET, STATUS_PATH, Bytes::new()).await?).await
    }

    /// Updates a model. Returns once the supervisor has started its response.
    ///
    /// # Errors
    /// No supervisor responds.
    pub async fn update(&self, model: &str, call: &UpdateCall) -> Result<Call, Error> {
        self.begin(Verb::Update, model, call).await
    }

    /// Rolls a model back. Returns once the supervisor has started its response.
    ///
    /// # Errors
    /// No supervisor responds.
    pub async fn rollback(&self, model: &str, call: &RollbackCall) -> Result<Call, Error> {
        self.begin(Verb::Rollback, model, call).await
    }

    /// Unloads a model.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn unload(&self, model: &str) -> Result<Reply<Unloaded>, Error> {
        self.end(Verb::Unload, model).await
    }

    /// Ends the running and the waiting updates of a model.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn cancel(&self, model: &str) -> Result<Reply<Cancelled>, Error> {
        self.end(Verb::Cancel, model).await
    }

    async fn end<T: DeserializeOwned>(&self, verb: Verb, model: &str) -> Result<Reply<T>, Error> {
        let body = Bytes::from_static(b"{}");
        answer(self.send(Method::POST, &verb.path(model), body).await?).await
    }

    async fn begin(&self, verb: Verb, model: &str, call: &impl Serialize) -> Result<Call, Error> {
        let body = serde_json::to_vec(call).map_err(Error::broken)?;
        let response = self.send(Method::POST, &verb.path(model), body.into()).await?;
        Ok(Call { status: response.status(), lines: Lines::new(response) })
    }

    /// Sends any request with a JSON body. Returns once the response headers have arrived.
    ///
    /// # Errors
    /// No supervisor responds.
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

fn unreachable(endpoint: &str, error: &io::Error) -> Error {
    Error::Unreachable { tried: vec![format!("{endpoint}: {error}")] }
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
    // Errors of this task reach the reader of the response.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(Error::broken)
}

/// An update or rollback whose response has started.
#[derive(Debug)]
pub struct Call {
    status: StatusCode,
    lines: Lines,
}

impl Call {
    /// Returns the HTTP status. It is not 200 if the call was refused before its first step.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the next line as text, or `None` after the last.
    ///
    /// # Errors
    /// The response was cut off.
    pub async fn next_text(&mut self) -> Result<Option<String>, Error> {
        self.lines.next().await
    }

    /// Reads the response to the end and passes each step to `each` as it arrives.
    ///
    /// # Errors
    /// The response was cut off or is malformed.
    pub async fn end(mut self, mut each: impl FnMut(&Step)) -> Result<Reply<Outcome>, Error> {
        while let Some(json) = self.lines.next().await? {
            match Line::parse(&json)? {
                Line::Step(Some(step)) => each(&step),
                Line::Step(None) => {}
                Line::End(result) => return Ok(Reply { json, result }),
            }
        }
        Err(Error::broken("the last line is missing"))
    }
}

impl Line {
    /// Parses a line.
    ///
    /// # Errors
    /// The line is neither a step nor an outcome nor a refusal.
    pub fn parse(json: &str) -> Result<Self, Error> {
        let marks: LineFields = serde_json::from_str(json).map_err(|_| not_json(json))?;
        Ok(match marks.step {
            Some(_) => Self::Step(serde_json::from_str(json).ok()),
            None => Self::End(verdict(json)?),
        })
    }
}

/// Fields that distinguish the kinds of lines.
#[derive(Deserialize)]
struct LineFields {
    step: Option<IgnoredAny>,
    error: Option<ErrorForm>,
}

/// Known forms of an error.
#[derive(Deserialize)]
#[serde(untagged)]
enum ErrorForm {
    Refusal(Refusal),
    /// A refusal of a kind that only newer releases know.
    Message {
        message: String,
    },
    /// The form of the `--admin-listen` guard and of Triton's clients.
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
    let marks: LineFields = serde_json::from_str(json).map_err(|_| not_json(json))?;
    match marks.error {
        Some(error) => Ok(Err(error.into())),
        None => serde_json::from_str(json).map(Ok).map_err(|_| Error::Unexpected(json.to_owned())),
    }
}

pub(crate) async fn answer<T: DeserializeOwned>(
    response: Response<Incoming>,
) -> Result<Reply<T>, Error> {
    let body = response.into_body().collect().await.map_err(Error::broken)?.to_bytes();
    let json = text(&body)?.trim_end().to_owned();
    let result = verdict(&json)?;
    Ok(Reply { json, result })
}

fn text(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|_| not_json(&String::from_utf8_lossy(bytes)))
}

/// Splits a body into lines as it arrives.
#[derive(Debug)]
struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    fn new(response: Response<Incoming>) -> Self {
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
                return Err(Error::broken("a line exceeds 1 MiB"));
            }
            let Some(frame) = self.body.frame().await else {
                // The last line may lack a newline.
                let rest = self.buffer.split();
                return if rest.is_empty() { Ok(None) } else { Ok(Some(text(&rest)?.to_owned())) };
            };
            if let Ok(data) = frame.map_err(Error::broken)?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

/// Returns the result of a call, or [`Error::Timeout`] after `time`.
///
/// # Errors
/// Returns the errors of the call.
pub async fn within<T>(
    time: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(time, call).await.unwrap_or(Err(Error::Timeout(time)))
}

/// Repeats a call while the supervisor refuses it because a successor is taking over.
///
/// # Errors
/// Returns the errors of the call.
pub async fn across_succession<T>(
    mut call: impl AsyncFnMut() -> Result<Reply<T>, Error>,
) -> Result<Reply<T>, Error> {
    let start = Instant::now();
    loop {
        let answer = call().await?;
        let hands_over = answer.result.as_ref().is_err_and(is_handing_over);
        if !hands_over || start.elapsed() > SUCCESSION_MAX {
            return Ok(answer);
        }
        sleep(SUCCESSION_PAUSE).await;
    }
}

/// Returns whether a refusal asks to retry with the successor.
fn is_handing_over(refusal: &Refusal) -> bool {
    /// Message of release 0.1.0, which has no kind for this. Remove once upgrades from that release
    /// are no longer supported.
    const MESSAGE_OF_0_1_0: &str = "a successor takes over; ask again";
    match refusal.kind {
        RefusalKind::HandingOver => true,
        RefusalKind::Busy => refusal.message == MESSAGE_OF_0_1_0,
        _ => false,
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
