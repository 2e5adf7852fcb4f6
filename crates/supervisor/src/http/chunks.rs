//! A response's body that lies in several places, so that large tensors are sent from where they
//! are.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// The parts that are not sent yet.
struct Chunks(VecDeque<Bytes>);

/// A body of these parts, one after the other.
pub(crate) fn body(parts: impl IntoIterator<Item = Bytes>) -> Body {
    Body::new(Chunks(parts.into_iter().filter(|part| !part.is_empty()).collect()))
}

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}
