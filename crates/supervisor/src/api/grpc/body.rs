//! Request bodies as they arrive. Charges large messages as soon as their length is known, bounds
//! the time each message may take, and ends idle streams during a drain.

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
    bounds::CONTROL_BYTES_MAX,
    decompress::{COMPRESSED, Decompressor},
    frames::Frames,
    methods::Method,
    status,
};
use crate::transport::{error::TransportError, guarded_body::BodyResource, unpack::Packing};

/// Maximum time a client may take to send one message.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Larger messages are charged to the [`MemoryBudget`].
pub(super) const UNCHARGED_MESSAGE_BYTES_MAX: usize = CONTROL_BYTES_MAX;

/// The best compression ratio that deflate can reach.
const DEFLATE_RATIO_MAX: usize = 1032;

/// Memory reserved for a call's messages and responses, by message index. Released once sent.
#[derive(Debug, Default)]
pub(super) struct Reservations(Mutex<BTreeMap<u64, Reservation>>);

impl BodyResource for Reservations {}

impl Reservations {
    /// Adds a reservation for the message at this index (from 0), or for its response.
    pub(super) fn add(&self, message: u64, reservation: Reservation) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(&message) {
            Some(existing) => existing.merge(reservation),
            None => drop(held.insert(message, reservation)),
        }
    }

    /// Returns what the message at this index over-reserved, now that its size is known.
    fn shrink(&self, message: u64, bytes: usize) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = if bytes > UNCHARGED_MESSAGE_BYTES_MAX { bytes } else { 0 };
        if let Some(reservation) = held.get_mut(&message) {
            reservation.shrink_to(kept);
        }
    }

    /// Releases the message at this index: its response was sent.
    pub(super) fn end(&self, message: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&message);
    }
}

/// The body of a request.
pub(super) struct RequestBody {
    body: Body,
    memory: MemoryBudget,
    reservations: Arc<Reservations>,
    frames: Frames,
    /// Set when messages may be compressed.
    decompressor: Option<Decompressor>,
    /// The client may send several messages, with pauses between them.
    takes_stream: bool,
    /// Size limit of one message.
    bytes_max: usize,
    late: Pin<Box<Sleep>>,
    /// When the last frame went to the decoder. Decoding does not count towards the timeout.
    handed_over: Option<Instant>,
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
        let bytes_max = method.map_or(CONTROL_BYTES_MAX, |method| method.bytes_max);
        let unpacked_max = bytes_max.min(memory.limit_bytes());
        Self {
            body,
            memory,
            reservations: Arc::default(),
            frames: Frames::default(),
            decompressor: packing.map(|packing| Decompressor::new(packing, unpacked_max)),
            takes_stream: method.is_some_and(|method| method.takes_stream),
            bytes_max,
            handed_over: None,
            late: Box::pin(tokio::time::sleep(MESSAGE_TIMEOUT)),
            drained: Box::pin(async move {
                // An error means that the sender was dropped. Treat that as a drain.
                let _ = drain.wait_for(|drain| *drain).await;
            }),
        }
    }

    /// Returns the reservations of this call.
    pub(super) fn reservations(&self) -> Arc<Reservations> {
        Arc::clone(&self.reservations)
    }

    /// Counts the bytes, and checks and charges each message that begins in them.
    fn account(&mut self, data: &[u8]) -> Result<(), Status> {
        let late = Instant::now() + MESSAGE_TIMEOUT;
        if self.frames.is_between() && !data.is_empty() {
            self.late.as_mut().reset(late);
        }
        let begins = |message, flags, bytes: usize| {
            if message > 0 && !self.takes_stream {
                return Err(Status::invalid_argument(
                    "this method takes one message, got a second",
                ));
            }
            let bytes_max = self.bytes_max;
            if bytes > bytes_max {
                let text = format!("message has {bytes} bytes; the limit is {bytes_max}");
                return Err(Status::out_of_range(text));
            }
            let bytes = match flags {
                // The decompressed size is unknown: assume the worst case. More than the whole budget is
                // not decompressed.
                COMPRESSED => bytes
                    .saturating_mul(DEFLATE_RATIO_MAX)
                    .min(bytes_max)
                    .min(self.memory.limit_bytes().max(bytes)),
                _ => bytes,
            };
            let reserved = self.memory.reserve(bytes, UNCHARGED_MESSAGE_BYTES_MAX);
            let reserved = reserved.map_err(|error| status::transport(TransportError::from(error)));
            if let Some(reservation) = reserved? {
                self.reservations.add(message, reservation);
            }
            self.late.as_mut().reset(late);
            Ok(())
        };
        self.frames.take(data, begins)
    }

    /// Completes with the reason to stop waiting for the next bytes.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let is_between = self.frames.is_between();
        if is_between && (self.takes_stream || self.frames.messages() > 0) {
            let drained = self.drained.as_mut().poll(context);
            if drained.is_ready() {
                return Poll::Ready(Status::unavailable("server is shutting down"));
            }
        }
        // A unary call completes only when its body ends, so the timeout keeps running.
        if is_between && self.takes_stream {
            return Poll::Pending;
        }
        let text = || format!("message did not arrive within {} s", MESSAGE_TIMEOUT.as_secs());
        self.late.as_mut().poll(context).map(|()| Status::deadline_exceeded(text()))
    }

    /// Turns the next frame into what the decoder receives.
    fn process(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, Status> {
        let data = frame.data_ref().cloned().unwrap_or_default();
        self.account(&data)?;
        match &mut self.decompressor {
            Some(decompressor) if frame.is_data() => {
                let on_message = |message, bytes| self.reservations.shrink(message, bytes);
                decompressor.take(&data, on_message).map(Frame::data).map_err(status::transport)
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
        if let Some(handed_over) = self.handed_over.take() {
            let late = self.late.deadline() + handed_over.elapsed();
            self.late.as_mut().reset(late);
        }
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let processed = self.process(frame);
                self.handed_over = Some(Instant::now());
                Poll::Ready(Some(processed))
            }
            Poll::Ready(Some(Err(error))) => {
                let text = format!("failed to read the request: {error}");
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
        match self.decompressor {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
