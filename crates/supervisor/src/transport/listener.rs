//! Connections: how many there may be, how long they may take, how they end; in the clear or, with
//! [`crate::transport::tls`], behind a handshake. Requests are answered by
//! the routes that a listener is handed.
//!
//! hyper's own header timeout also runs while a connection is idle, so it serves here as the
//! idle timeout; a client that has begun a request and does not finish its headers is closed
//! sooner, and so is one that takes nothing of an answer. When all [`crate::transport::places`] are taken, the
//! longest idle connection is closed rather than a new one left waiting.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, header::CONNECTION},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use nix::errno::Errno;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    time,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::transport::{
    edge::Edge,
    error::Shapes,
    holding::{Held, Holding},
    http2::{self, MayRest},
    panics,
    places::{Phase, Place, Places},
    tls::Tls,
    watched::Watched,
};
use onnxd_telemetry::metrics::Metrics;

/// How long a connection may be idle between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a client may take to send the headers of a request it has begun, or to shake hands.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take nothing of what is sent to it.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a connection is looked at for both.
const SLOW_TICK: Duration = Duration::from_secs(5);
/// How long an idle connection is kept while we drain: a request that is on its way is answered, and
/// the answer says that it is the last.
const PARTING: Duration = Duration::from_secs(2);
/// Bytes of a request's headers.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// How long the accept loop rests when descriptors are used up, rather than spin.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// Connections that may have come and are not accepted yet when we drain, and more.
const QUEUED_MAX: usize = 16_384;
/// How often the accept loop shows that it is alive when nobody connects.
const TICK: Duration = Duration::from_millis(100);

/// What a listener speaks.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    /// HTTP/2, with connections of [`http2`].
    Http2 {
        may_rest: MayRest,
    },
}

impl Protocol {
    /// As TLS names it (ALPN).
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 { .. } => b"h2",
        }
    }
}

/// What a listener serves.
pub(crate) struct Routes {
    /// The handlers.
    pub router: Router,
    /// The words for errors of requests that reach no handler.
    pub shapes: Arc<dyn Shapes>,
}

/// Accepts connections until it is told to drain.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    protocol: Protocol,
    router: Router,
    tls: Option<Arc<Tls>>,
    metrics: Arc<Metrics>,
    places: Arc<Places>,
    ticks: Arc<AtomicU64>,
}

impl Listener {
    /// A listener on a socket that is bound already, with what stands before its routes.
    pub(crate) fn new(
        socket: TcpListener,
        edge: &Edge,
        Routes { router, shapes }: Routes,
        (metrics, places): (Arc<Metrics>, Arc<Places>),
    ) -> Self {
        let router = panics::caught(edge.around(router, &shapes), shapes);
        let tls = edge.tls.clone();
        let (protocol, ticks) = (Protocol::Http1, Arc::default());
        Self { socket, protocol, router, tls, metrics, places, ticks }
    }

    /// The same for HTTP/2 alone, whose router checks keys and catches panics by itself. Calls to
    /// paths that `may_rest` may stay open for ever without a message.
    pub(crate) fn http2(
        socket: TcpListener,
        edge: &Edge,
        (router, may_rest): (Router, MayRest),
        (metrics, places): (Arc<Metrics>, Arc<Places>),
    ) -> Self {
        let (protocol, tls, ticks) =
            (Protocol::Http2 { may_rest }, edge.tls.clone(), Arc::default());
        Self { socket, protocol, router, tls, metrics, places, ticks }
    }

    /// A number that changes as long as the accept loop lives.
    pub(crate) fn ticks(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.ticks)
    }

    /// Serves until `drain` becomes true, then finishes what has begun for at most
    /// `drain_timeout`.
    pub(crate) async fn run(self, mut drain: watch::Receiver<bool>, drain_timeout: Duration) {
        let (graceful, mut waiting) = (GracefulShutdown::new(), None);
        loop {
            self.ticks.fetch_add(1, Ordering::Relaxed);
            let connection = tokio::select! {
                connection = self.accept(&mut waiting) => connection,
                () = time::sleep(TICK) => continue,
                // An error means that whoever drains has gone, which is as good a reason.
                _ = drain.wait_for(|drain| *drain) => break,
            };
            if let Some((stream, place)) = connection {
                self.serve(stream, place, &graceful, &drain);
            }
        }
        // Who is connected already, if not yet accepted, gets an answer too. All of them are there
        // now, so that none is left for later.
        tokio::task::unconstrained(async {
            for _ in 0..QUEUED_MAX {
                let patience = if waiting.is_some() { PARTING } else { Duration::ZERO };
                match time::timeout(patience, self.accept(&mut waiting)).await {
                    Ok(Some((stream, place))) => self.serve(stream, place, &graceful, &drain),
                    // It has gone again.
                    Ok(None) => {}
                    // It has been accepted, and waits for a place.
                    Err(_) if waiting.is_some() && patience.is_zero() => {}
                    Err(_) => break,
                }
            }
        })
        .await;
        drop(self.socket);
        if time::timeout(drain_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!("connections were cut at the end of the drain time");
        }
    }

    /// The next connection and its place. What is accepted waits for a place in `waiting`, also
    /// when this is cancelled.
    async fn accept(&self, waiting: &mut Option<TcpStream>) -> Option<(TcpStream, Place)> {
        if waiting.is_none() {
            let stream = self.accept_stream().await?;
            if let Some(place) = self.places.take() {
                return Some((stream, place));
            }
            *waiting = Some(stream);
            self.metrics.connections_delayed_total.add();
            self.close_one();
        }
        let place = self.place().await;
        waiting.take().map(|stream| (stream, place))
    }

    async fn accept_stream(&self) -> Option<TcpStream> {
        match self.socket.accept().await {
            Ok((stream, _)) => Some(stream),
            Err(error) => {
                // One client that has gone again is no news; used up descriptors or memory are.
                tracing::debug!(%error, "a connection could not be accepted");
                let used_up = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
                let code = error.raw_os_error().map(Errno::from_raw);
                if code.is_some_and(|code| used_up.contains(&code)) {
                    self.close_one();
                    time::sleep(ACCEPT_REST).await;
                }
                None
            }
        }
    }

    /// A place, as soon as an idle connection has given up its own.
    async fn place(&self) -> Place {
        loop {
            if let Some(place) = self.places.take() {
                return place;
            }
            // Whoever is answered now is idle soon.
            if time::timeout(ACCEPT_REST, self.places.freed()).await.is_err() {
                self.close_one();
            }
        }
    }

    fn close_one(&self) {
        if self.places.close_one() {
            self.metrics.connections_evicted_total.add();
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        place: Place,
        graceful: &GracefulShutdown,
        drain: &watch::Receiver<bool>,
    ) {
        // Small answers must not wait for more; where it cannot be set they do.
        let _ = stream.set_nodelay(true);
        let (place, counted) = (Arc::new(place), self.metrics.connected());
        let connection = Connection {
            protocol: self.protocol,
            router: self.router.clone(),
            tls: self.tls.clone(),
            place: Arc::clone(&place),
            // Taken now, so that a drain also waits for who is still shaking hands.
            watcher: graceful.watcher(),
            drain: drain.clone(),
        };
        // In a task of its own from the first byte on: no client holds up the next.
        tokio::spawn(async move {
            tokio::select! {
                () = connection.run(stream) => {}
                () = too_slow(&place) => tracing::debug!("a client was too slow"),
                () = place.wanted() => tracing::debug!("an idle connection gave up its place"),
            }
            drop((place, counted));
        });
    }
}

/// A connection from its first byte on.
struct Connection {
    protocol: Protocol,
    router: Router,
    tls: Option<Arc<Tls>>,
    place: Arc<Place>,
    watcher: Watcher,
    drain: watch::Receiver<bool>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream) {
        let Some(tls) = self.tls.take() else { return self.converse(stream, false).await };
        // A client that never shakes hands is as slow as one that never ends its headers.
        self.place.set(Phase::Headers(Instant::now()));
        let mut first = [0];
        tokio::select! {
            biased;
            // The handshake meets the error again, if it is one.
            _ = stream.peek(&mut first) => {}
            // Who says nothing is not waited for; what was said may not have been seen yet.
            () = parting(self.drain.clone()) => return,
        }
        // Asked for now: the certificate may have changed since the client connected.
        match TlsAcceptor::from(tls.config(&[self.protocol.alpn()])).accept(stream).await {
            Ok(stream) => {
                let last = *self.drain.borrow();
                if !last {
                    self.place.set(Phase::Idle);
                }
                self.converse(stream, last).await;
            }
            Err(error) => tracing::debug!(%error, "a client did not get through the handshake"),
        }
    }

    /// Answers one request after the other; only the first one where it is the `last`, of a
    /// client who shook hands while we drain and is about to ask.
    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, last: bool) {
        let Self { router, place, watcher, drain, .. } = self;
        if let Protocol::Http2 { may_rest } = self.protocol {
            let calls = http2::Calls { router, place, may_rest };
            return http2::converse(stream, calls, watcher, drain).await;
        }
        let (seen, draining) = (Arc::clone(&place), drain.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (router, seen, drain) = (router.clone(), Arc::clone(&seen), draining.clone());
            async move {
                let answering = Answering::begin(seen);
                let mut response = router.oneshot(request.map(Body::new)).await;
                if let (Ok(response), true) = (&mut response, *drain.borrow()) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
                    .map(|response| response.map(|body| Holding::new(body, Arc::new(answering))))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_header_size(HEADERS_BYTES_MAX)
            .keep_alive(!last)
            .serve_connection(TokioIo::new(Watched { stream, place }), service);
        let mut connection = pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            // Told to stop, hyper would close before it has read anything of the last.
            () = parting(drain), if !last => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        drop(watcher);
        if let Err(error) = result {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// As long as it lives, a connection has a request that is not answered to the end.
struct Answering(Arc<Place>);

impl Answering {
    fn begin(place: Arc<Place>) -> Self {
        place.answer_begins();
        Self(place)
    }
}

impl Held for Answering {}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answer_ends();
    }
}

/// Returns when a connection that is idle is to be closed.
async fn parting(mut drain: watch::Receiver<bool>) {
    // An error means that whoever drains has gone, which is as good a reason.
    let _ = drain.wait_for(|drain| *drain).await;
    time::sleep(PARTING).await;
}

/// Returns when the client has been too slow.
async fn too_slow(place: &Place) {
    while !place.too_slow(HEADERS_TIMEOUT, STALL_TIMEOUT) {
        time::sleep(SLOW_TICK).await;
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
