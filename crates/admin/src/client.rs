//! A client of the admin interface. Each call opens a connection; streams are read line by line as
//! they arrive. Used by the command line, end-to-end tests, the soak and benchmarks.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::{Instant, sleep, timeout},
};

use crate::{
    api::{
        Cancelled, JSON, Refusal, RefusalKind, RollbackCall, STATUS_PATH, Status, Unloaded,
        UpdateCall, Verb,
    },
    reply::answer,
};
pub use crate::{
    error::Error,
    reply::{Call, Line, Reply},
};

/// Maximum time for a handover to the successor.
const SUCCESSION_MAX: Duration = Duration::from_secs(60);
/// Pause before retrying with the successor.
const SUCCESSION_PAUSE: Duration = Duration::from_millis(100);

/// A connection to a supervisor's admin interface.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    stage: Arc<Mutex<Stage>>,
}

/// How far the last call of a [`Client`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// The supervisor has no call: the client is connecting, or the call was refused or has ended.
    #[default]
    Idle,
    /// The call was sent. The supervisor may have begun it.
    Sent,
    /// The supervisor has begun the call.
    Begun,
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

impl Client {
    /// Creates a client for the supervisor at this socket.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self::at_first_of(vec![socket.into()])
    }

    /// Creates a client for the first of these sockets that accepts.
    pub fn at_first_of(sockets: Vec<PathBuf>) -> Self {
        Self::to(Endpoint::Sockets(sockets))
    }

    /// Creates a client for the supervisor whose `--admin-listen` is this address.
    pub fn tcp(address: SocketAddr, token: impl Into<String>) -> Self {
        Self::to(Endpoint::Tcp { address, token: Secret(token.into()) })
    }

    fn to(endpoint: Endpoint) -> Self {
        Self { endpoint, stage: Arc::default() }
    }

    /// Returns how far the last call has come.
    pub fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how far the last call has come; [`Stage::Idle`] when the caller has its result.
    pub fn reached(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
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
        let has_begun = response.status() == StatusCode::OK;
        self.reached(if has_begun { Stage::Begun } else { Stage::Idle });
        Ok(Call::new(response))
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
        self.reached(Stage::Idle);
        match &self.endpoint {
            Endpoint::Sockets(sockets) => {
                let request = request.header(HOST, "onnxd").body(Full::new(body));
                let stream = connect(sockets).await?;
                self.reached(Stage::Sent);
                converse(stream, request.map_err(Error::broken)?).await
            }
            Endpoint::Tcp { address, token: Secret(token) } => {
                let request = request
                    .header(HOST, address.to_string())
                    .header(AUTHORIZATION, format!("Bearer {token}"))
                    .body(Full::new(body));
                let stream = TcpStream::connect(address).await;
                let stream = stream.map_err(|error| unreachable(&address.to_string(), &error))?;
                self.reached(Stage::Sent);
                converse(stream, request.map_err(Error::broken)?).await
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
