//! One HTTP/2 connection: limits on concurrent calls, idle time and unread responses, and the drain.
//! Chosen by [`crate::transport::connection`].

use std::{
    io,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, http::Request};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::Watcher,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time,
};
use tower::ServiceExt;

use crate::transport::{
    access,
    bodies::Allowance,
    connection::DRAIN_GRACE,
    error::Rewrite,
    guarded_body::{BodyResource, GuardedBody},
    malformed,
    refusals::{self, Refusal},
    requests,
    slots::ConnectionSlot,
};
use onnxd_telemetry::metrics::Metrics;

/// Maximum concurrent calls on one connection.
const STREAMS_MAX: u32 = 128;
/// Calls that a client may open and reset before they are processed, or that were refused. Beyond this
/// the connection is closed; no well-behaved client needs more (CVE-2023-44487).
const RESETS_MAX: usize = 64;
/// Maximum size of a call's headers in bytes.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of requests that a client may send before they are read, in one call or in all calls. They are
/// not charged, see [`Allowance`].
pub(super) const UNREAD_BYTES_MAX: u32 = 256 * 1024;
/// The same for gRPC. A larger window lets a client on a slow network send the largest message in time.
pub(super) const UNREAD_MESSAGE_BYTES_MAX: u32 = 1 << 20;
/// Maximum unread bytes of one call's response.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// How long a connection for gRPC may be without a call. Clients reconnect for the next one.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How often a client is pinged, and how long it has to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// During a drain: how long a client that has just connected has to make its first call.
const FIRST_CALL_TIMEOUT: Duration = Duration::from_millis(500);

/// Returns whether calls to a path may stay open indefinitely without a message.
pub(crate) type MayIdle = fn(&str) -> bool;

/// How the calls of a connection are processed.
pub(super) struct Calls {
    pub router: Router,
    pub rewrite: Rewrite,
    /// The client's address.
    pub peer: IpAddr,
    pub metrics: Arc<Metrics>,
    pub slot: Arc<ConnectionSlot>,
    pub may_idle: MayIdle,
    /// Bytes that a client may send before they are read.
    pub unread_bytes_max: u32,
    /// How long the connection may be without a call.
    pub idle_timeout: Duration,
}

/// Counts the open calls of a connection.
#[derive(Clone, Copy, Debug, Default)]
struct OpenCalls {
    /// Whether there was ever a call.
    any: bool,
    open: usize,
}

/// Counts response pieces that the client has not read. Such a client may still answer pings.
#[derive(Debug)]
struct UnreadPieces {
    slot: Arc<ConnectionSlot>,
    pieces: Mutex<usize>,
}

impl UnreadPieces {
    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *pieces;
        *pieces = change(before);
        if *pieces < before {
            self.slot.sent(true);
        }
        if *pieces > 0 {
            self.slot.sent(false);
        }
    }
}

/// A call in progress.
#[derive(Debug)]
struct Call {
    calls: watch::Sender<OpenCalls>,
    unsent: Arc<UnreadPieces>,
    /// The call may stay open indefinitely. Its connection counts as idle, otherwise a few clients with
    /// such calls could occupy all slots forever.
    may_idle: bool,
}

impl Call {
    fn begin(calls: &watch::Sender<OpenCalls>, unsent: &Arc<UnreadPieces>, may_idle: bool) -> Self {
        if !may_idle {
            unsent.slot.answer_begins();
        }
        calls.send_modify(|calls| *calls = OpenCalls { any: true, open: calls.open + 1 });
        Self { calls: calls.clone(), unsent: Arc::clone(unsent), may_idle }
    }
}

impl BodyResource for Call {
    fn piece_begins(&self) {
        self.unsent.change(|pieces| pieces + 1);
    }

    fn piece_ends(&self) {
        self.unsent.change(|pieces| pieces - 1);
        if self.may_idle {
            self.unsent.slot.was_active();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.send_modify(|calls| calls.open -= 1);
        if !self.may_idle {
            self.unsent.slot.answer_ends();
        }
    }
}

/// Processes calls until the client disconnects or is idle for too long, or until a drain has finished
/// all calls.
pub(super) async fn process(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    Calls { router, rewrite, peer, metrics, slot, may_idle, unread_bytes_max, idle_timeout }: Calls,
    watcher: Watcher,
    drain: watch::Receiver<bool>,
) {
    let (calls, mut seen) = watch::channel(OpenCalls::default());
    let unsent = Arc::new(UnreadPieces { slot, pieces: Mutex::new(0) });
    let allowance = Allowance::default();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(allowance.clone());
        let may_idle = may_idle(request.uri().path());
        let (router, call) = (router.clone(), Call::begin(&calls, &unsent, may_idle));
        async move {
            let request = requests::normalized(access::arrived(request, peer), rewrite);
            let response = router.oneshot(request).await;
            response.map(|response| response.map(|body| GuardedBody::new(body, Arc::new(call))))
        }
    });
    let refused = |refusal: Refusal| {
        malformed::refused(refusal.reason(), &refusal, peer, &metrics);
    };
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(RESETS_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_send_buf_size(UNSENT_BYTES_MAX)
            .initial_stream_window_size(unread_bytes_max)
            .initial_connection_window_size(unread_bytes_max)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(refusals::watched(stream, refused)), service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = closing(&mut seen, drain, idle_timeout) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => result,
                // The client does not close the connection, or has not even begun to speak HTTP/2.
                () = idle(&mut seen, DRAIN_GRACE) => Ok(()),
            }
        }
    };
    drop(watcher);
    match result {
        Err(error) if !malformed::report_http2(&error, peer, &metrics) && !is_gone(&error) => {
            tracing::debug!(%error, "connection failed");
        }
        _ => {}
    }
}

/// Returns whether the client closed the socket, as most clients do.
fn is_gone(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    cause.and_then(|cause| cause.downcast_ref::<io::Error>()).is_some()
}

/// Waits until the client should be told to make no more calls.
async fn closing(
    seen: &mut watch::Receiver<OpenCalls>,
    mut drain: watch::Receiver<bool>,
    idle_timeout: Duration,
) {
    tokio::select! {
        // An error means that the sender was dropped: drain as well.
        _ = drain.wait_for(|drain| *drain) => {}
        () = idle(seen, idle_timeout) => return,
    }
    // Before the HTTP/2 handshake is complete, hyper would close at once.
    let _ = time::timeout(FIRST_CALL_TIMEOUT, seen.wait_for(|calls| calls.any)).await;
}

/// Waits until no call has been open for `timeout`.
async fn idle(seen: &mut watch::Receiver<OpenCalls>, timeout: Duration) {
    loop {
        let idle = seen.borrow_and_update().open == 0;
        tokio::select! {
            // An error means that the connection has ended.
            Ok(()) = seen.changed() => {}
            () = time::sleep(timeout), if idle => return,
            else => return,
        }
    }
}

#[cfg(test)]
#[path = "http2_tests.rs"]
mod tests;
