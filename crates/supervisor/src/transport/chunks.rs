//! Response bodies of several parts, so that large tensors are sent without copying.

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

use crate::transport::guarded_body::{self, BodyResource};

impl BodyResource for Reservation {}

/// Returns the same parts, which keep the memory reservation until all of them are dropped.
pub(crate) fn with_reservation(
    parts: impl IntoIterator<Item = Bytes>,
    reservation: Option<Reservation>,
) -> impl Iterator<Item = Bytes> {
    let reservation = reservation.map(Arc::new);
    parts.into_iter().map(move |part| match &reservation {
        Some(reservation) => guarded_body::guard(part, reservation),
        None => part,
    })
}

/// The unsent parts.
struct Chunks(VecDeque<Bytes>);

/// Returns a body that sends the parts in order.
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
    async fn reservation_is_released_with_the_last_part() {
        let budget = MemoryBudget::new(7 * 1024);
        let reservation = budget.reserve(7 * 1024, 0).unwrap();
        let parts = [Bytes::from("one"), Bytes::from("two")];
        let mut body = body(with_reservation(parts, reservation));
        assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(6));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((&first[..], &second[..]), (&b"one"[..], &b"two"[..]));
        drop((body, first));
        assert_eq!(budget.available_bytes(), 0);
        drop(second);
        assert_eq!(budget.available_bytes(), 7 * 1024);
    }
}
