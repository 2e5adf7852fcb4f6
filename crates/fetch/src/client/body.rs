//! The body of a response, with limits on time. Bytes are limited by the readers, which know how
//! many they expect.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use tokio::time::timeout;

use super::Times;

/// A response's body.
pub(crate) struct Body {
    chunks: Chunks,
    /// Names the URL in errors.
    from: String,
    times: Times,
    waited: Duration,
    received: u64,
}

enum Chunks {
    Http(Incoming),
    Other(BoxStream<'static, Result<Bytes, FetchError>>),
}

impl Body {
    /// Wraps the body of a response from `from`.
    pub(super) fn new(body: Incoming, from: String, times: Times) -> Self {
        Self::of(Chunks::Http(body), from, times)
    }

    /// Wraps chunks that another library reads through our client, which applies the limits.
    pub(crate) fn of_stream(chunks: BoxStream<'static, Result<Bytes, FetchError>>) -> Self {
        Self::of(Chunks::Other(chunks), String::new(), Times::default())
    }

    fn of(chunks: Chunks, from: String, times: Times) -> Self {
        Self { chunks, from, times, waited: Duration::ZERO, received: 0 }
    }

    /// Returns the next bytes, or `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        let body = match &mut self.chunks {
            Chunks::Http(body) => body,
            Chunks::Other(chunks) => return chunks.next().await.transpose(),
        };
        let broken =
            |cause: String| FetchErrorKind::Unreachable.because(format!("{}: {cause}", self.from));
        loop {
            let started = Instant::now();
            let frame = timeout(self.times.stall, body.frame())
                .await
                .map_err(|_| broken(format!("no byte for {} s", self.times.stall.as_secs_f32())))?;
            self.waited += started.elapsed();
            let chunk = match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(broken(format!("connection lost: {}", cause(&error))));
                }
                // Trailers.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => chunk,
                    Err(_) => continue,
                },
            };
            self.received += chunk.len() as u64;
            if self.waited >= self.times.window {
                if self.received < self.times.window_bytes {
                    let Times { window, window_bytes, .. } = self.times;
                    let seconds = window.as_secs_f32();
                    return Err(broken(format!("less than {window_bytes} bytes in {seconds} s")));
                }
                (self.waited, self.received) = (Duration::ZERO, 0);
            }
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Returns the whole body, of at most `max` bytes.
    pub(crate) async fn all(mut self, max: u64) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if (bytes.len() + chunk.len()) as u64 > max {
                let message = format!("{}: the answer is longer than {max} bytes", self.from);
                return Err(FetchErrorKind::TooLarge.because(message));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// Returns the innermost cause of an error, which says most.
pub(super) fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a dyn std::error::Error {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause
}
