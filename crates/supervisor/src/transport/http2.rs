//! One connection that speaks HTTP/2: how much a client may ask for at once, how long it may be
//! idle, and how it is told that we drain. Accepted by [`crate::transport::listener`].

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body, http::Request};
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
    holding::{Held, Holding},
    places::Place,
};

/// Calls at once on one connection.
const STREAMS_MAX: u32 = 128;
/// Calls that a client may open and take back before we have looked at them, or that we may have
/// had to refuse. With more the connection ends: no client needs that (CVE-2023-44487).
const RESETS_MAX: usize = 64;
/// Bytes of a call's headers.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of answers to one call that wait for its client to take them.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// How long a connection may be without a call. The client connects again for its next.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How often a client is asked whether it is still there, and how long it has to say so.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client that has only just connected may take to make its first call, while we drain.
const FIRST_CALL_TIMEOUT: Duration = Duration::from_millis(500);

/// Tells whether calls to a path may go on for ever without a message.
pub(crate) type MayRest = fn(&str) -> bool;

/// Who answers the calls of a connection.
pub(super) struct Calls {
    pub router: Router,
    pub place: Arc<Place>,
    pub may_rest: MayRest,
}

/// The calls of a connection that are not answered.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    /// There has been one.
    any: bool,
    /// Those that are not answered.
    open: usize,
}

/// Pieces of a connection's answers that wait for its client, who may keep the connection alive and
/// take none.
#[derive(Debug)]
struct Unsent {
    place: Arc<Place>,
    pieces: Mutex<usize>,
}

impl Unsent {
    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *pieces;
        *pieces = change(before);
        if *pieces < before {
            self.place.sent(true);
        }
        if *pieces > 0 {
            self.place.sent(false);
        }
    }
}

/// A call until it is answered.
#[derive(Debug)]
struct Call {
    calls: watch::Sender<Open>,
    unsent: Arc<Unsent>,
    /// It may go on for ever without a message. Its connection counts as idle, or a few clients with
    /// such calls could take all places for good.
    may_rest: bool,
}

impl Call {
    fn begin(calls: &watch::Sender<Open>, unsent: &Arc<Unsent>, may_rest: bool) -> Self {
        if !may_rest {
            unsent.place.answer_begins();
        }
        calls.send_modify(|calls| *calls = Open { any: true, open: calls.open + 1 });
        Self { calls: calls.clone(), unsent: Arc::clone(unsent), may_rest }
    }
}

impl Held for Call {
    fn piece_begins(&self) {
        self.unsent.change(|pieces| pieces + 1);
    }

    fn piece_ends(&self) {
        self.unsent.change(|pieces| pieces - 1);
        if self.may_rest {
            self.unsent.place.was_active();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.send_modify(|calls| calls.open -= 1);
        if !self.may_rest {
            self.unsent.place.answer_ends();
        }
    }
}

/// Answers calls until the client goes, is idle for long, or we drain and all are answered.
pub(super) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    Calls { router, place, may_rest }: Calls,
    watcher: Watcher,
    drain: watch::Receiver<bool>,
) {
    let (calls, seen) = watch::channel(Open::default());
    let unsent = Arc::new(Unsent { place, pieces: Mutex::new(0) });
    let service = service_fn(move |request: Request<Incoming>| {
        let may_rest = may_rest(request.uri().path());
        let (router, call) = (router.clone(), Call::begin(&calls, &unsent, may_rest));
        async move {
            let response = router.oneshot(request.map(Body::new)).await;
            response.map(|response| response.map(|body| Holding::new(body, Arc::new(call))))
        }
    });
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(RESETS_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_send_buf_size(UNSENT_BYTES_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = over(seen, drain) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    drop(watcher);
    match result {
        Err(error) if !is_gone(&error) => tracing::debug!(%error, "a connection ended early"),
        _ => {}
    }
}

/// Most clients end by closing the socket, which is no news.
fn is_gone(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    cause.and_then(|cause| cause.downcast_ref::<io::Error>()).is_some()
}

/// Returns when the client is to be told to make no more calls.
async fn over(mut seen: watch::Receiver<Open>, mut drain: watch::Receiver<bool>) {
    loop {
        let idle = seen.borrow_and_update().open == 0;
        tokio::select! {
            // An error means that whoever drains has gone, which is as good a reason.
            _ = drain.wait_for(|drain| *drain) => break,
            // An error means that there is no connection any more.
            Ok(()) = seen.changed() => {}
            () = time::sleep(IDLE_TIMEOUT), if idle => return,
            else => return,
        }
    }
    // Told before the two sides have shaken hands, hyper would close at once.
    let _ = time::timeout(FIRST_CALL_TIMEOUT, seen.wait_for(|calls| calls.any)).await;
}

#[cfg(test)]
#[path = "http2_tests.rs"]
mod tests;
