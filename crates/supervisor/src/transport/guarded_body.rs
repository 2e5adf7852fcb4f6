//! Response bodies that keep a resource until the last byte is sent or dropped. hyper may still buffer a
//! body that it has read to the end.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

/// Maximum size of a piece. Progress is visible once per piece.
const PIECE_BYTES: usize = 256 * 1024;

/// A resource that a response keeps.
pub(crate) trait BodyResource: Send + Sync + 'static {
    /// Called when a piece is handed to hyper.
    fn piece_begins(&self) {}
    /// Called when a piece was sent or dropped.
    fn piece_ends(&self) {}
}

/// A response body that keeps a resource until it is sent.
#[derive(Debug)]
pub(crate) struct GuardedBody<T> {
    body: Body,
    /// The unsent rest of the last frame.
    rest: Bytes,
    resource: Arc<T>,
}

/// Bytes that share ownership of the resource.
struct Piece<T: BodyResource>(Bytes, Arc<T>);

impl<T: BodyResource> AsRef<[u8]> for Piece<T> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<T: BodyResource> Drop for Piece<T> {
    fn drop(&mut self) {
        self.1.piece_ends();
    }
}

/// Returns the same bytes, which keep `resource` until all copies are dropped.
pub(super) fn guard<T: BodyResource>(bytes: Bytes, resource: &Arc<T>) -> Bytes {
    resource.piece_begins();
    Bytes::from_owner(Piece(bytes, Arc::clone(resource)))
}

impl<T: BodyResource> GuardedBody<T> {
    pub(crate) fn new(body: Body, resource: Arc<T>) -> Self {
        Self { body, rest: Bytes::new(), resource }
    }

    fn next_piece(&mut self) -> Frame<Bytes> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        Frame::data(guard(piece, &self.resource))
    }
}

impl<T: BodyResource> HttpBody for GuardedBody<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(Some(Ok(self.next_piece())))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest + body.lower());
        if let Some(upper) = body.upper() {
            hint.set_upper(rest + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::BodyExt;

    use super::*;

    #[derive(Default)]
    struct Unsent(AtomicUsize);

    impl BodyResource for Unsent {
        fn piece_begins(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn piece_ends(&self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn resource_is_kept_until_the_last_piece_is_dropped() {
        let (text, resource) = (vec![7; 2 * PIECE_BYTES + 1], Arc::new(Unsent::default()));
        let mut answer = GuardedBody::new(Body::from(text.clone()), Arc::clone(&resource));
        assert_eq!(answer.size_hint().exact(), Some(text.len() as u64));
        let mut pieces = Vec::new();
        while let Some(frame) = answer.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
            let unsent = text.len() - pieces.iter().map(Bytes::len).sum::<usize>();
            assert_eq!(answer.size_hint().exact(), Some(unsent as u64));
            assert_eq!(answer.is_end_stream(), unsent == 0);
        }
        assert!(pieces.concat() == text && pieces.len() == 3);
        drop(answer);
        for unsent in (0..3).rev() {
            assert!(Arc::strong_count(&resource) > 1);
            pieces.pop();
            assert_eq!(resource.0.load(Ordering::Relaxed), unsent);
        }
        assert_eq!(Arc::strong_count(&resource), 1);
    }
}
