//! The body of a request as it comes in. A large message is paid for as soon as its length is
//! known, none may take long, and between two messages a call ends when we drain.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, http::StatusCode};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, Sleep},
};
use tonic::Status;

use super::{MESSAGE_BYTES_MAX, frames::Frames, packed::Packed, status::status};
use crate::http::{
    error::{ApiError, Kind},
    router::App,
    unpack::Packing,
};

/// How long a client may take to send a message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages that are larger are paid for from [`App::bodies`].
const UNPAID_BYTES_MAX: usize = 32 * 1024;

/// How much smaller deflate makes what is easiest to pack.
const PACKED_AT_MOST: usize = 1032;

/// What the messages of a request have paid for, until they are answered.
#[derive(Debug, Default)]
pub(super) struct Paid(Mutex<BTreeMap<u64, OwnedSemaphorePermit>>);

impl Paid {
    fn begin(&self, message: u64, permit: OwnedSemaphorePermit) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(message, permit);
    }

    /// The message of that number, from 0, is answered.
    pub(super) fn end(&self, message: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&message);
    }
}

/// The body of a request.
pub(super) struct RequestBody {
    body: Body,
    app: App,
    paid: Arc<Paid>,
    frames: Frames,
    /// Where messages may be packed.
    packed: Option<Packed>,
    /// The client may wait before its first message.
    takes_stream: bool,
    late: Pin<Box<Sleep>>,
    drained: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl RequestBody {
    pub(super) fn new(
        body: Body,
        app: App,
        packing: Option<Packing>,
        takes_stream: bool,
        mut drain: watch::Receiver<bool>,
    ) -> Self {
        Self {
            body,
            app,
            paid: Arc::default(),
            frames: Frames::default(),
            packed: packing.map(Packed::new),
            takes_stream,
            late: Box::pin(tokio::time::sleep(MESSAGE_TIMEOUT)),
            drained: Box::pin(async move {
                // An error means that whoever drains has gone, which is as good a reason.
                let _ = drain.wait_for(|drain| *drain).await;
            }),
        }
    }

    /// What its messages have paid for.
    pub(super) fn paid(&self) -> Arc<Paid> {
        Arc::clone(&self.paid)
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        let begins = |message, bytes: usize| {
            if bytes > MESSAGE_BYTES_MAX {
                let text =
                    format!("the message has {bytes} bytes, at most {MESSAGE_BYTES_MAX} are taken");
                let error = ApiError::new(Kind::Validation, text);
                return Err(status(error.with_status(StatusCode::PAYLOAD_TOO_LARGE)));
            }
            let bytes = match self.packed {
                // It does not say how much it will be.
                Some(_) => bytes.saturating_mul(PACKED_AT_MOST).min(MESSAGE_BYTES_MAX),
                None => bytes,
            };
            if let Some(permit) = self.app.pay(bytes, UNPAID_BYTES_MAX).map_err(status)? {
                self.paid.begin(message, permit);
            }
            self.late.as_mut().reset(Instant::now() + MESSAGE_TIMEOUT);
            Ok(())
        };
        self.frames.take(data, begins)
    }

    /// Why it is not waited for what is to come.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        if self.frames.is_between() && (self.takes_stream || self.frames.messages() > 0) {
            self.drained
                .as_mut()
                .poll(context)
                .map(|()| Status::unavailable("the server is stopping"))
        } else {
            let text = || format!("the message took longer than {} s", MESSAGE_TIMEOUT.as_secs());
            self.late.as_mut().poll(context).map(|()| Status::deadline_exceeded(text()))
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.data_ref().cloned().unwrap_or_default();
                if let Err(status) = self.take(&data) {
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Ready(Some(match &mut self.packed {
                    Some(packed) if frame.is_data() => {
                        packed.take(&data).map(Frame::data).map_err(status)
                    }
                    _ => Ok(frame),
                }))
            }
            Poll::Ready(Some(Err(error))) => {
                let text = format!("the request could not be read: {error}");
                Poll::Ready(Some(Err(Status::cancelled(text))))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.poll_end(context).map(|status| Some(Err(status))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.packed {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

/// The body of an answer, and what is held until it has been sent.
#[derive(Debug)]
pub(super) struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T> Holding<T> {
    pub(super) fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> HttpBody for Holding<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
