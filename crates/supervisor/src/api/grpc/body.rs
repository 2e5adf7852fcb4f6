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

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use onnxd_engine::engine::{MemoryBudget, memory::Reservation};
use tokio::{
    sync::watch,
    time::{Instant, Sleep},
};
use tonic::Status;

use crate::api::grpc::{
    bounds::QUESTION_BYTES_MAX,
    frames::Frames,
    methods::Method,
    packed::{PACKED, Packed},
    status,
};
use crate::transport::{error::TransportError, holding::Held, unpack::Packing};

/// How long a client may take to send a message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages that are larger reserve memory of the [`MemoryBudget`].
pub(super) const UNPAID_BYTES_MAX: usize = QUESTION_BYTES_MAX;

/// How much smaller deflate makes what is easiest to pack.
const PACKED_AT_MOST: usize = 1032;

/// What the messages of a request and their answers have paid for, until these are sent.
#[derive(Debug, Default)]
pub(super) struct Paid(Mutex<BTreeMap<u64, Reservation>>);

impl Held for Paid {}

impl Paid {
    /// The message of that number, from 0, or its answer has paid for so much more.
    pub(super) fn add(&self, message: u64, permit: Reservation) {
        let mut paid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match paid.get_mut(&message) {
            Some(already) => already.merge(permit),
            None => drop(paid.insert(message, permit)),
        }
    }

    /// The message of that number has become so many bytes, for which it paid at least.
    fn shrink(&self, message: u64, bytes: usize) {
        let mut paid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = if bytes > UNPAID_BYTES_MAX { bytes } else { 0 };
        if let Some(reservation) = paid.get_mut(&message) {
            reservation.shrink_to(kept);
        }
    }

    /// The answer to the message of that number has been sent.
    pub(super) fn end(&self, message: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&message);
    }
}

/// The body of a request.
pub(super) struct RequestBody {
    body: Body,
    memory: MemoryBudget,
    paid: Arc<Paid>,
    frames: Frames,
    /// Where messages may be packed.
    packed: Option<Packed>,
    /// The client may send several messages, and wait before each.
    takes_stream: bool,
    /// Bytes of a message.
    bytes_max: usize,
    late: Pin<Box<Sleep>>,
    /// Since when what came lies with who takes messages apart: that time is not the client's.
    handed_on: Option<Instant>,
    drained: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl RequestBody {
    pub(super) fn new(
        body: Body,
        memory: MemoryBudget,
        packing: Option<Packing>,
        method: Option<&Method>,
        mut drain: watch::Receiver<bool>,
    ) -> Self {
        let bytes_max = method.map_or(QUESTION_BYTES_MAX, |method| method.bytes_max);
        Self {
            body,
            memory,
            paid: Arc::default(),
            frames: Frames::default(),
            packed: packing.map(|packing| Packed::new(packing, bytes_max)),
            takes_stream: method.is_some_and(|method| method.takes_stream),
            bytes_max,
            handed_on: None,
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
        let late = Instant::now() + MESSAGE_TIMEOUT;
        if self.frames.is_between() && !data.is_empty() {
            self.late.as_mut().reset(late);
        }
        let begins = |message, flags, bytes: usize| {
            if message > 0 && !self.takes_stream {
                return Err(Status::invalid_argument("a second message in a call that takes one"));
            }
            let bytes_max = self.bytes_max;
            if bytes > bytes_max {
                let text = format!("the message has {bytes} bytes, at most {bytes_max} are taken");
                return Err(Status::out_of_range(text));
            }
            let bytes = match flags {
                // It does not say how much it will be.
                PACKED => bytes.saturating_mul(PACKED_AT_MOST).min(bytes_max),
                _ => bytes,
            };
            let reserved = self.memory.reserve(bytes, UNPAID_BYTES_MAX);
            let reserved = reserved.map_err(|error| status::transport(TransportError::from(error)));
            if let Some(reservation) = reserved? {
                self.paid.add(message, reservation);
            }
            self.late.as_mut().reset(late);
            Ok(())
        };
        self.frames.take(data, begins)
    }

    /// Why it is not waited for what is to come.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let is_between = self.frames.is_between();
        if is_between && (self.takes_stream || self.frames.messages() > 0) {
            let drained = self.drained.as_mut().poll(context);
            if drained.is_ready() {
                return Poll::Ready(Status::unavailable("the server is stopping"));
            }
        }
        // Who takes one message has to hear that there is no other.
        if is_between && self.takes_stream {
            return Poll::Pending;
        }
        let text = || format!("the message took longer than {} s", MESSAGE_TIMEOUT.as_secs());
        self.late.as_mut().poll(context).map(|()| Status::deadline_exceeded(text()))
    }

    /// What comes of the next bytes, for who takes messages apart.
    fn taken(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Status> {
        let data = frame.data_ref().cloned().unwrap_or_default();
        self.take(&data)?;
        match &mut self.packed {
            Some(packed) if frame.is_data() => {
                let unpacked = |message, bytes| self.paid.shrink(message, bytes);
                packed.take(&data, unpacked).map(Frame::data).map_err(status::transport)
            }
            _ => Ok(frame),
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
        if let Some(handed_on) = self.handed_on.take() {
            let late = self.late.deadline() + handed_on.elapsed();
            self.late.as_mut().reset(late);
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let taken = self.taken(frame);
                self.handed_on = Some(Instant::now());
                Poll::Ready(Some(taken))
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

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
