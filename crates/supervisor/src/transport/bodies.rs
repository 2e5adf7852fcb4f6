//! Reads the bodies of requests, within limits on bytes, time and, for large ones, on the memory
//! of all together.

use std::time::Duration;

use axum::{body::Body, http::Request};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use onnxd_engine::engine::{MemoryBudget, memory::Reservation};
use tokio::{sync::Semaphore, task, time};

use crate::transport::{
    chunks::held,
    error::{BodyError, TransportError},
    unpack::{self, unpack},
};

/// Bytes of a request's body, as TEI has it.
pub(super) const BODY_BYTES_MAX: usize = 2_000_000;
/// Bytes of a body that need not be paid for.
const UNPAID_BYTES_MAX: usize = 64 * 1024;
/// How long a client may take to send a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the rest of a refused body may take before the connection is closed.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// What a body of unknown length pays for at once.
const STEP_BYTES: usize = 1 << 20;
/// Bodies that are unpacked at once: it takes CPU time, and memory that is paid for afterwards.
static UNPACKING: Semaphore = Semaphore::const_new(2);
/// How long a body waits for its turn to be unpacked.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a body within the limits; a large one pays for its memory until the last of it is dropped.
///
/// # Errors
/// It is too long, takes too long, breaks off or is packed in an unknown way, or other large bodies
/// take all the memory.
pub(crate) async fn read_body(
    memory: &MemoryBudget,
    request: Request<Body>,
) -> Result<Bytes, BodyError> {
    read_paid(memory, request, UNPAID_BYTES_MAX, BODY_BYTES_MAX).await
}

/// The same with another limit, for listeners whose bodies are few.
///
/// # Errors
/// As above.
pub(crate) async fn read_body_within(
    request: Request<Body>,
    bytes_max: usize,
) -> Result<Bytes, BodyError> {
    read(request, bytes_max, &mut Payment::default()).await
}

/// The same for a body that pays for its memory where it has more than `unpaid_max` bytes.
///
/// # Errors
/// As above.
pub(crate) async fn read_paid(
    memory: &MemoryBudget,
    request: Request<Body>,
    unpaid_max: usize,
    bytes_max: usize,
) -> Result<Bytes, BodyError> {
    let payer = Some((memory, unpaid_max));
    let mut payment = Payment { payer, ..Payment::default() };
    let body = read(request, bytes_max, &mut payment).await?;
    Ok(held([body], payment.permit).next().unwrap_or_default())
}

/// What a body has paid for.
#[derive(Default)]
struct Payment<'a> {
    payer: Option<(&'a MemoryBudget, usize)>,
    bytes: usize,
    permit: Option<Reservation>,
}

impl Payment<'_> {
    /// Pays for so many bytes in all, if not for more already.
    fn cover(&mut self, bytes: usize) -> Result<(), BodyError> {
        let Some((memory, unpaid_max)) = self.payer else { return Ok(()) };
        if bytes <= unpaid_max || bytes <= self.bytes {
            return Ok(());
        }
        // In steps, so that a body that comes in pieces does not pay for each.
        let bytes = bytes.next_multiple_of(STEP_BYTES);
        let more = memory.reserve(bytes - self.bytes, 0)?;
        self.bytes = bytes;
        self.permit = match (self.permit.take(), more) {
            (Some(mut paid), Some(more)) => {
                paid.merge(more);
                Some(paid)
            }
            (paid, more) => paid.or(more),
        };
        Ok(())
    }
}

async fn read(
    request: Request<Body>,
    bytes_max: usize,
    payment: &mut Payment<'_>,
) -> Result<Bytes, BodyError> {
    let packing = unpack::packing(request.headers())?;
    let mut body = request.into_body();
    let size = hyper::body::Body::size_hint(&body);
    // What says beforehand that it is too long is not waited for.
    if size.lower() > bytes_max as u64 {
        discard_later(body, bytes_max);
        return Err(too_long(bytes_max).and_close());
    }
    let exact = size.exact().and_then(|bytes| usize::try_from(bytes).ok());
    let taken = take_in(&mut body, exact, bytes_max, payment);
    let taken = time::timeout(BODY_TIMEOUT, taken)
        .await
        .unwrap_or_else(|_| Err(TransportError::Timeout(BODY_TIMEOUT).into()));
    let bytes = taken.map_err(|error| {
        discard_later(body, bytes_max);
        error.and_close()
    })?;
    let Some(packing) = packing else { return Ok(bytes) };
    let _turn = time::timeout(UNPACK_TIMEOUT, UNPACKING.acquire())
        .await
        .map_err(|_| TransportError::UnpackingBusy { retry_after: UNPACK_TIMEOUT })?;
    let unpacked = task::block_in_place(|| unpack(&bytes, packing, bytes_max))?;
    payment.cover(unpacked.len())?;
    Ok(unpacked)
}

fn too_long(bytes_max: usize) -> BodyError {
    TransportError::TooLong { max: bytes_max }.into()
}

/// Takes a body in as it comes; one whose length is known pays for all of it first.
async fn take_in(
    body: &mut Body,
    exact: Option<usize>,
    bytes_max: usize,
    payment: &mut Payment<'_>,
) -> Result<Bytes, BodyError> {
    payment.cover(exact.unwrap_or(0))?;
    let mut bytes = BytesMut::with_capacity(exact.unwrap_or(0));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(TransportError::Broken)?;
        let Ok(data) = frame.into_data() else { continue };
        let length = bytes.len() + data.len();
        if length > bytes_max {
            return Err(too_long(bytes_max));
        }
        payment.cover(length)?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// Takes in what is still on its way, within the limits of bodies, and forgets it. Closing before
/// it has come would reset the connection, and the client could not read the answer.
async fn discard(mut body: Body, bytes_max: usize) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > bytes_max {
            return;
        }
    }
}

/// The same in the background, for a limited time.
pub(super) fn discard_later(body: Body, bytes_max: usize) {
    tokio::spawn(time::timeout(DISCARD_TIMEOUT, discard(body, bytes_max)));
}

#[cfg(test)]
#[path = "bodies_tests.rs"]
mod tests;
