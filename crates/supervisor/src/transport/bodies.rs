//! Reads request bodies within limits on size and time. Large bodies are charged to a memory budget that
//! all requests share. So are small ones of a connection that has many at once.

use std::time::Duration;

use axum::{body::Body, http::Request};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use onnxd_engine::engine::{
    MemoryBudget,
    memory::{OutOfMemory, Reservation},
};
use tokio::{sync::Semaphore, task, time};

use crate::transport::{
    chunks::with_reservation,
    error::{BodyError, TransportError},
    unpack::{self, unpack},
};

/// Maximum request body in bytes, the same as in text-embeddings-inference.
pub(super) const BODY_BYTES_MAX: usize = 2_000_000;
/// Bodies up to this size are not charged.
const UNCHARGED_BYTES_MAX: usize = 64 * 1024;
/// How long a client may take to send a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to read the rest of a refused body before the connection closes.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);
/// A body of unknown length is charged in steps: powers of two between these sizes, then the larger.
const STEP_BYTES_MIN: usize = 1024;
const STEP_BYTES_MAX: usize = 1 << 20;
/// Limits concurrent decompression, which costs CPU time and memory that is only charged afterwards.
static UNPACKING: Semaphore = Semaphore::const_new(2);
/// How long a body may wait for its decompression.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(5);

/// The bytes that the bodies of one HTTP/2 connection may have without charge, all together: as many as
/// one body over HTTP/1.1. In the extensions of each request.
#[derive(Clone, Debug)]
pub(super) struct Allowance(MemoryBudget);

impl Default for Allowance {
    fn default() -> Self {
        Self(MemoryBudget::new(UNCHARGED_BYTES_MAX))
    }
}

/// Reads a body. A large one is charged to `memory` until all of its bytes are dropped.
///
/// # Errors
/// The body is too long, too slow, incomplete or in an unsupported encoding, or the memory budget is
/// exhausted.
pub(crate) async fn read_body(
    memory: &MemoryBudget,
    request: Request<Body>,
) -> Result<Bytes, BodyError> {
    read_charged(memory, request, UNCHARGED_BYTES_MAX, BODY_BYTES_MAX).await
}

/// Reads a body of at most `bytes_max` bytes without charging it, for listeners with few requests.
///
/// # Errors
/// As for [`read_body`].
pub(crate) async fn read_body_within(
    request: Request<Body>,
    bytes_max: usize,
) -> Result<Bytes, BodyError> {
    read(request, bytes_max, &mut Charge::default()).await
}

/// Reads a body of at most `bytes_max` bytes, and charges it if it has more than `uncharged_max`.
///
/// # Errors
/// As for [`read_body`].
pub(crate) async fn read_charged(
    memory: &MemoryBudget,
    request: Request<Body>,
    uncharged_max: usize,
    bytes_max: usize,
) -> Result<Bytes, BodyError> {
    let (budget, allowance) = (Some((memory, uncharged_max)), request.extensions().get().cloned());
    let mut charge = Charge { budget, allowance, ..Charge::default() };
    let body = read(request, bytes_max, &mut charge).await?;
    Ok(with_reservation([body], charge.reservation).next().unwrap_or_default())
}

/// The memory charged for a body.
#[derive(Default)]
struct Charge<'a> {
    budget: Option<(&'a MemoryBudget, usize)>,
    allowance: Option<Allowance>,
    /// Whether the reservation is one of the budget, not of the allowance.
    is_charged: bool,
    bytes: usize,
    reservation: Option<Reservation>,
}

impl Charge<'_> {
    /// Raises the charge to at least `bytes`.
    fn cover(&mut self, bytes: usize) -> Result<(), BodyError> {
        let Some((memory, uncharged_max)) = self.budget else { return Ok(()) };
        if bytes <= self.bytes {
            return Ok(());
        }
        if bytes <= uncharged_max && !self.is_charged {
            let Some(Allowance(allowance)) = self.allowance.clone() else { return Ok(()) };
            if self.raise(&allowance, bytes).is_ok() {
                return Ok(());
            }
        }
        if !self.is_charged {
            (self.is_charged, self.bytes, self.reservation) = (true, 0, None);
        }
        Ok(self.raise(memory, bytes)?)
    }

    /// Raises the reservation, in steps, so that a body in small pieces is not charged for each of them.
    fn raise(&mut self, memory: &MemoryBudget, bytes: usize) -> Result<(), OutOfMemory> {
        let step = bytes.next_power_of_two().clamp(STEP_BYTES_MIN, STEP_BYTES_MAX);
        // A step must not refuse a body that fits.
        let limit = memory.limit_bytes();
        if bytes > limit {
            return Err(OutOfMemory::TooLarge { bytes, limit });
        }
        let bytes = bytes.next_multiple_of(step).min(limit);
        let more = memory.reserve(bytes - self.bytes, 0)?;
        self.bytes = bytes;
        self.reservation = match (self.reservation.take(), more) {
            (Some(mut reserved), Some(more)) => {
                reserved.merge(more);
                Some(reserved)
            }
            (reserved, more) => reserved.or(more),
        };
        Ok(())
    }
}

async fn read(
    request: Request<Body>,
    bytes_max: usize,
    charge: &mut Charge<'_>,
) -> Result<Bytes, BodyError> {
    let packing = unpack::packing(request.headers())?;
    let mut body = request.into_body();
    let size = hyper::body::Body::size_hint(&body);
    // Refuse by the declared length, without reading the body.
    if size.lower() > bytes_max as u64 {
        discard_later(body, bytes_max);
        return Err(too_long(bytes_max).and_close());
    }
    let exact = size.exact().and_then(|bytes| usize::try_from(bytes).ok());
    let collected = collect(&mut body, exact, bytes_max, charge);
    let collected = time::timeout(BODY_TIMEOUT, collected)
        .await
        .unwrap_or_else(|_| Err(TransportError::BodyTimeout(BODY_TIMEOUT).into()));
    let bytes = collected.map_err(|error| {
        discard_later(body, bytes_max);
        error.and_close()
    })?;
    let Some(packing) = packing else { return Ok(bytes) };
    let _turn = time::timeout(UNPACK_TIMEOUT, UNPACKING.acquire())
        .await
        .map_err(|_| TransportError::DecompressionBusy { retry_after: UNPACK_TIMEOUT })?;
    let unpacked = task::block_in_place(|| unpack(&bytes, packing, bytes_max))?;
    charge.cover(unpacked.len())?;
    Ok(unpacked)
}

fn too_long(bytes_max: usize) -> BodyError {
    TransportError::BodyTooLarge { max: bytes_max }.into()
}

/// Collects a body. If its length is known, charges all of it first.
async fn collect(
    body: &mut Body,
    exact: Option<usize>,
    bytes_max: usize,
    charge: &mut Charge<'_>,
) -> Result<Bytes, BodyError> {
    charge.cover(exact.unwrap_or(0))?;
    let mut bytes = BytesMut::with_capacity(exact.unwrap_or(0));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(TransportError::IncompleteBody)?;
        let Ok(data) = frame.into_data() else { continue };
        let length = bytes.len() + data.len();
        if length > bytes_max {
            return Err(too_long(bytes_max));
        }
        charge.cover(length)?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// Reads and drops the rest of a body, up to the limit. Closing earlier would reset the connection, and
/// the client could not read the response.
async fn discard(mut body: Body, bytes_max: usize) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > bytes_max {
            return;
        }
    }
}

/// Runs [`discard`] in the background, for a limited time.
pub(super) fn discard_later(body: Body, bytes_max: usize) {
    tokio::spawn(time::timeout(DISCARD_TIMEOUT, discard(body, bytes_max)));
}

#[cfg(test)]
#[path = "bodies_tests.rs"]
mod tests;
