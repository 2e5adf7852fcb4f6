//! An HTTP/1.1 client with one connection. It never retries, and an unannounced close is an error.
//! [`exchange`] sends raw bytes that need not be valid HTTP.

use std::{fmt, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request,
    client::conn::http1::{self, SendRequest},
    header::{CONNECTION, CONTENT_TYPE, HOST},
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

/// A longer request counts as unanswered.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// A connection that sends requests one after the other.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
    closing: bool,
}

/// A request that was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered(pub String);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<hyper::Error> for Unanswered {
    fn from(error: hyper::Error) -> Self {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        Self(format!("{error} {}", source.unwrap_or_default()))
    }
}

impl Client {
    /// Opens a connection.
    ///
    /// # Errors
    /// Fails if the connection is refused.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let sender = open(address).await?;
        Ok(Self { address, sender, closing: false })
    }

    /// Sends a GET request.
    ///
    /// # Errors
    /// Fails if no answer arrives.
    pub async fn get(&mut self, path: &str) -> Result<Response, Unanswered> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// Sends a POST request with a JSON body.
    ///
    /// # Errors
    /// Fails if no answer arrives.
    pub async fn post(&mut self, path: &str, body: &Value) -> Result<Response, Unanswered> {
        self.send(Method::POST, path, body.to_string().into()).await
    }

    /// Sends any request, with JSON as the content type.
    ///
    /// # Errors
    /// Fails if no answer arrives.
    ///
    /// # Panics
    /// Panics if the request is not representable.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response, Unanswered> {
        self.send_with(method, path, &[(CONTENT_TYPE.as_str(), "application/json")], body).await
    }

    /// Sends any request with these headers in addition to `host`.
    ///
    /// # Errors
    /// Fails if no answer arrives.
    ///
    /// # Panics
    /// Panics if the request is not representable.
    pub async fn send_with(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Response, Unanswered> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(HOST, self.address.to_string());
        let with = |request: Builder, (name, value): &(&str, &str)| request.header(*name, *value);
        let request = headers.iter().fold(request, with).body(Full::new(body)).unwrap();
        match timeout(DEADLINE, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Unanswered(format!("no answer within {DEADLINE:?}"))),
        }
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response, Unanswered> {
        if self.closing {
            let opened = open(self.address).await;
            self.sender = opened.map_err(|error| Unanswered(format!("connect: {error}")))?;
            self.closing = false;
        }
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let response = Response { status: parts.status.as_u16(), headers: parts.headers, body };
        self.closing = response.header(CONNECTION.as_str()) == Some("close");
        Ok(response)
    }

    /// Returns the server's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns whether the server has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Returns whether the last answer announced the end of the connection.
    pub fn closing(&self) -> bool {
        self.closing
    }
}

async fn open(address: SocketAddr) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // The error also reaches the pending request.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status code.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

impl Response {
    /// Returns a header, if present.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns `x-model-generation`.
    pub fn generation(&self) -> Option<u64> {
        self.header("x-model-generation")?.parse().ok()
    }

    /// Returns `x-model-version`.
    pub fn version(&self) -> Option<&str> {
        self.header("x-model-version")
    }

    /// Returns the body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    /// Panics if the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.status, self.text()))
    }

    /// Returns the embeddings of an `/embed` response.
    ///
    /// # Panics
    /// Panics if the response is anything else.
    pub fn embeddings(&self) -> Vec<Vec<f32>> {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// Bytes received on a raw connection.
#[derive(Clone, Debug)]
pub struct Raw {
    /// Everything that was received.
    pub received: Vec<u8>,
    /// Whether the server closed the connection.
    pub closed: bool,
}

impl Raw {
    /// Returns the status code of the last final answer; 1xx answers do not count.
    pub fn status(&self) -> Option<u16> {
        let text = String::from_utf8_lossy(&self.received);
        let codes = text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok());
        codes.filter(|&code| code >= 200).last()
    }

    /// Returns the bytes after the last head.
    pub fn body(&self) -> String {
        let text = String::from_utf8_lossy(&self.received);
        text.rsplit_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }
}

/// Sends bytes and reads until the server closes the connection or `timeout` has elapsed.
///
/// # Errors
/// Fails if the connection is refused.
pub async fn exchange(address: SocketAddr, bytes: &[u8], timeout: Duration) -> io::Result<Raw> {
    let (mut reader, mut writer) = TcpStream::connect(address).await?.into_split();
    let bytes = bytes.to_vec();
    // The server may answer and stop reading before everything is written.
    let writing = tokio::spawn(async move {
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut raw = Raw { received: Vec::new(), closed: false };
    let end = Instant::now() + timeout;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = timeout_at(end, reader.read(&mut buffer)).await {
        match read {
            Ok(0) | Err(_) => {
                raw.closed = true;
                break;
            }
            Ok(count) => raw.received.extend_from_slice(&buffer[..count]),
        }
    }
    writing.abort();
    Ok(raw)
}
