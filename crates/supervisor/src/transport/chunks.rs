//! A response's body that lies in several places, so that large tensors are sent from where they
//! are.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use onnxd_engine::engine::memory::Reservation;

use crate::transport::holding::{self, Held};

impl Held for Reservation {}

/// The same bytes, which keep what was paid for them until the last of them is dropped, wherever
/// they go.
pub(crate) fn held(
    parts: impl IntoIterator<Item = Bytes>,
    paid: Option<Reservation>,
) -> impl Iterator<Item = Bytes> {
    let paid = paid.map(Arc::new);
    parts.into_iter().map(move |part| match &paid {
        Some(paid) => holding::keep(part, paid),
        None => part,
    })
}

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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use onnxd_engine::engine::MemoryBudget;

    use super::*;

    #[tokio::test]
    async fn what_was_paid_is_given_back_when_the_last_part_is_gone_and_not_before() {
        let room = MemoryBudget::of(7 * 1024);
        let paid = room.reserve(7 * 1024, 0).unwrap();
        let parts = [Bytes::from("one"), Bytes::from("two")];
        let mut body = body(held(parts, paid));
        assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(6));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((&first[..], &second[..]), (&b"one"[..], &b"two"[..]));
        drop((body, first));
        assert_eq!(room.available_bytes(), 0);
        drop(second);
        assert_eq!(room.available_bytes(), 7 * 1024);
    }
}
