//! Accepts connections, with or without TLS, limits them in number and time, and drains them. Started by
//! `serve`, which passes the routes. HTTP/2 is chosen by ALPN or by its first bytes.
//!
//! hyper's header timeout also runs while a connection is idle, so it is the idle timeout here. A client
//! that is slow to send its headers, or to read a response, is closed sooner. When all
//! [`crate::transport::slots`] are in use, a new connection evicts the one that has been idle longest.

use std::{
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
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
    access,
    edge::Edge,
    error::Shapes,
    guarded_body::{BodyResource, GuardedBody},
    http2::{self, MayIdle},
    malformed, panics,
    preface::Begun,
    requests,
    slots::{ConnectionSlot, ConnectionSlots, Phase},
    tls::Tls,
    watched::Watched,
};
use onnxd_telemetry::metrics::Metrics;

/// How long a client may take to send a request's headers, or for the TLS handshake.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may read nothing of a response.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a connection is checked against both limits.
const SLOW_TICK: Duration = Duration::from_secs(5);
/// How long an idle connection stays open during a drain. A request in flight is answered with
/// `connection: close`.
const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// Maximum size of request headers in bytes.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// Pause of the accept loop when descriptors are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Upper bound on connections in the kernel's accept queue when a drain begins.
const QUEUED_MAX: usize = 16_384;
/// How often the accept loop ticks without new connections.
const TICK: Duration = Duration::from_millis(100);

/// ALPN names of the protocols.
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// What the clients of a listener may speak.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    /// HTTP/1.1 or HTTP/2, as each client chooses.
    Any,
    /// HTTP/2, see [`http2`].
    Http2 {
        may_idle: MayIdle,
    },
}

impl Protocol {
    /// Returns the ALPN names, the preferred one first.
    fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[HTTP1],
            Self::Any => &[HTTP2, HTTP1],
            Self::Http2 { .. } => &[HTTP2],
        }
    }
}

/// The routes of a listener.
pub(crate) struct Routes {
    /// The handlers.
    pub router: Router,
    /// Renders errors of requests that reach no handler.
    pub shapes: Arc<dyn Shapes>,
}

/// Accepts connections until a drain begins.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    protocol: Protocol,
    router: Router,
    tls: Option<Arc<Tls>>,
    metrics: Arc<Metrics>,
    slots: Arc<ConnectionSlots>,
    ticks: Arc<AtomicU64>,
    /// How long a connection may be idle between two requests.
    idle_timeout: Duration,
}

impl Listener {
    /// Returns an HTTP/1.1 listener on a bound socket, with `edge` in front of its routes.
    pub(crate) fn new(
        socket: TcpListener,
        edge: &Edge,
        Routes { router, shapes }: Routes,
        (metrics, slots): (Arc<Metrics>, Arc<ConnectionSlots>),
    ) -> Self {
        let router = edge.around(requests::checked(router, &shapes), &shapes);
        let router = panics::caught(router, shapes);
        let router = access::around(router, &edge.access_log, &metrics);
        let (tls, idle_timeout) = (edge.tls.clone(), edge.idle_timeout);
        let (protocol, ticks) = (Protocol::Http1, Arc::default());
        Self { socket, protocol, router, tls, metrics, slots, ticks, idle_timeout }
    }

    /// Also accepts HTTP/2.
    pub(crate) fn with_http2(self) -> Self {
        Self { protocol: Protocol::Any, ..self }
    }

    /// Returns an HTTP/2 listener. Its router must check keys and catch panics itself. Calls to paths for
    /// which `may_idle` holds may stay open indefinitely without a message.
    pub(crate) fn http2(
        socket: TcpListener,
        edge: &Edge,
        (router, may_idle): (Router, MayIdle),
        (metrics, slots): (Arc<Metrics>, Arc<ConnectionSlots>),
    ) -> Self {
        let router = access::around(router, &edge.access_log, &metrics);
        let (protocol, tls, ticks) =
            (Protocol::Http2 { may_idle }, edge.tls.clone(), Arc::default());
        let idle_timeout = http2::IDLE_TIMEOUT;
        Self { socket, protocol, router, tls, metrics, slots, ticks, idle_timeout }
    }

    /// Returns a counter that increases while the accept loop runs.
    pub(crate) fn ticks(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.ticks)
    }

    /// Serves until `drain` becomes true, then finishes open requests within `drain_timeout`.
    pub(crate) async fn run(self, mut drain: watch::Receiver<bool>, drain_timeout: Duration) {
        let (graceful, mut waiting) = (GracefulShutdown::new(), None);
        loop {
            self.ticks.fetch_add(1, Ordering::Relaxed);
            let connection = tokio::select! {
                connection = self.accept(&mut waiting) => connection,
                () = time::sleep(TICK) => continue,
                // An error means that the sender was dropped: drain as well.
                _ = drain.wait_for(|drain| *drain) => break,
            };
            if let Some((stream, slot)) = connection {
                self.serve(stream, slot, &graceful, &drain);
            }
        }
        // Clients in the accept queue are connected already and get a response as well. Unconstrained, so
        // that tokio's budget does not interrupt the loop.
        tokio::task::unconstrained(async {
            for _ in 0..QUEUED_MAX {
                let timeout = if waiting.is_some() { DRAIN_GRACE } else { Duration::ZERO };
                match time::timeout(timeout, self.accept(&mut waiting)).await {
                    Ok(Some((stream, slot))) => self.serve(stream, slot, &graceful, &drain),
                    // The client disconnected.
                    Ok(None) => {}
                    // A connection was accepted and waits for a slot.
                    Err(_) if waiting.is_some() && timeout.is_zero() => {}
                    Err(_) => break,
                }
            }
        })
        .await;
        drop(self.socket);
        if time::timeout(drain_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!("drain timeout reached, closing open connections");
        }
    }

    /// Returns the next connection and its slot. Cancel safe: an accepted connection stays in `waiting`
    /// until it has a slot.
    async fn accept(&self, waiting: &mut Option<TcpStream>) -> Option<(TcpStream, ConnectionSlot)> {
        if waiting.is_none() {
            let stream = self.accept_stream().await?;
            if let Some(slot) = self.slots.take() {
                return Some((stream, slot));
            }
            *waiting = Some(stream);
            self.metrics.connections_delayed_total.increment();
            self.evict_one();
        }
        let slot = self.slot().await;
        waiting.take().map(|stream| (stream, slot))
    }

    async fn accept_stream(&self) -> Option<TcpStream> {
        match self.socket.accept().await {
            Ok((stream, _)) => Some(stream),
            Err(error) => {
                // Usually a client that has disconnected. Only exhausted resources need action.
                tracing::debug!(%error, "cannot accept a connection");
                let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
                let code = error.raw_os_error().map(Errno::from_raw);
                if code.is_some_and(|code| exhausted.contains(&code)) {
                    self.evict_one();
                    time::sleep(ACCEPT_PAUSE).await;
                }
                None
            }
        }
    }

    /// Waits for a slot, evicting idle connections.
    async fn slot(&self) -> ConnectionSlot {
        loop {
            if let Some(slot) = self.slots.take() {
                return slot;
            }
            // If all are busy, one becomes idle soon: try again.
            if time::timeout(ACCEPT_PAUSE, self.slots.freed()).await.is_err() {
                self.evict_one();
            }
        }
    }

    fn evict_one(&self) {
        if self.slots.evict_one() {
            self.metrics.connections_evicted_total.increment();
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        slot: ConnectionSlot,
        graceful: &GracefulShutdown,
        drain: &watch::Receiver<bool>,
    ) {
        // Send small responses at once. Ignore errors: without it, responses are only slower.
        let _ = stream.set_nodelay(true);
        let (slot, counted) = (Arc::new(slot), self.metrics.connected());
        let connection = Connection {
            protocol: self.protocol,
            // Fails only if the client has disconnected.
            peer: stream.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip()),
            metrics: Arc::clone(&self.metrics),
            router: self.router.clone(),
            tls: self.tls.clone(),
            slot: Arc::clone(&slot),
            // Taken now, so that a drain also waits for handshakes.
            watcher: graceful.watcher(),
            drain: drain.clone(),
            idle_timeout: self.idle_timeout,
        };
        // A separate task from the first byte on, so that no client delays the next.
        tokio::spawn(async move {
            tokio::select! {
                () = connection.run(stream) => {}
                () = too_slow(&slot) => tracing::debug!("closed a slow connection"),
                () = slot.evicted() => tracing::debug!("evicted an idle connection"),
            }
            drop((slot, counted));
        });
    }
}

/// An accepted connection.
struct Connection {
    protocol: Protocol,
    /// The other end's address.
    peer: IpAddr,
    metrics: Arc<Metrics>,
    router: Router,
    tls: Option<Arc<Tls>>,
    slot: Arc<ConnectionSlot>,
    watcher: Watcher,
    drain: watch::Receiver<bool>,
    idle_timeout: Duration,
}

impl Connection {
    async fn run(mut self, stream: TcpStream) {
        let Some(tls) = self.tls.take() else { return self.choose(stream).await };
        // The handshake shares the time limit for headers.
        self.slot.set(Phase::Headers(Instant::now()));
        let mut first = [0];
        tokio::select! {
            biased;
            // On error the handshake fails as well.
            _ = stream.peek(&mut first) => {}
            // Biased: bytes that have arrived win over the end of the drain.
            () = drain_grace_ended(self.drain.clone()) => return,
        }
        // Read now: the certificate may have been reloaded since the client connected.
        match TlsAcceptor::from(tls.config(self.protocol.alpn())).accept(stream).await {
            Ok(stream) => {
                let last = *self.drain.borrow();
                if !last {
                    self.slot.set(Phase::Idle);
                }
                match (self.protocol, stream.get_ref().1.alpn_protocol()) {
                    (Protocol::Http2 { may_idle }, _) => self.process_http2(stream, may_idle).await,
                    (Protocol::Any, Some(HTTP2)) => self.process_http2(stream, |_| false).await,
                    _ => self.process(stream, last).await,
                }
            }
            Err(error) => tracing::debug!(%error, "TLS handshake failed"),
        }
    }

    /// Processes a connection without TLS by the protocol that the client speaks.
    async fn choose(self, stream: TcpStream) {
        match self.protocol {
            Protocol::Http1 => return self.process(stream, false).await,
            Protocol::Http2 { may_idle } => return self.process_http2(stream, may_idle).await,
            Protocol::Any => {}
        }
        let slot = Arc::clone(&self.slot);
        let examined = tokio::select! {
            biased;
            // Biased: bytes that have arrived win over the end of the drain.
            examined = Begun::examine(stream, || slot.received()) => examined,
            () = drain_grace_ended(self.drain.clone()) => return,
            () = time::sleep(self.idle_timeout) => return,
        };
        match examined {
            Ok((stream, true)) => {
                self.slot.set(Phase::Idle);
                self.process_http2(stream, |_| false).await;
            }
            Ok((stream, false)) => self.process(stream, false).await,
            Err(error) => tracing::debug!(%error, "connection failed"),
        }
    }

    async fn process_http2(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        may_idle: MayIdle,
    ) {
        let Self { router, peer, slot, watcher, drain, idle_timeout, .. } = self;
        let calls = http2::Calls { router, peer, slot, may_idle, idle_timeout };
        http2::process(stream, calls, watcher, drain).await;
    }

    /// Processes HTTP/1.1 requests until the connection ends. If `last`, only one: the client finished its
    /// handshake during a drain and is about to send a request.
    async fn process(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, last: bool) {
        let Self { router, peer, metrics, slot, watcher, drain, idle_timeout, .. } = self;
        let (seen, draining) = (Arc::clone(&slot), drain.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (router, seen, drain) = (router.clone(), Arc::clone(&seen), draining.clone());
            async move {
                let answering = BusyGuard::begin(seen);
                let request = requests::without_trailing_slash(access::arrived(request, peer));
                let mut response = router.oneshot(request).await;
                if let (Ok(response), true) = (&mut response, *drain.borrow()) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response.map(|response| {
                    response.map(|body| GuardedBody::new(body, Arc::new(answering)))
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(idle_timeout)
            .max_header_size(HEADERS_BYTES_MAX)
            .keep_alive(!last)
            .serve_connection(TokioIo::new(Watched { stream, slot }), service);
        let mut connection = pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            // Not for `last`: hyper would close before reading the request.
            () = drain_grace_ended(drain), if !last => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        drop(watcher);
        match result {
            Err(error) if !malformed::report(&error, peer, &metrics) => {
                tracing::debug!(%error, "connection failed");
            }
            _ => {}
        }
    }
}

/// Marks the connection as busy until dropped.
struct BusyGuard(Arc<ConnectionSlot>);

impl BusyGuard {
    fn begin(slot: Arc<ConnectionSlot>) -> Self {
        slot.answer_begins();
        Self(slot)
    }
}

impl BodyResource for BusyGuard {}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.answer_ends();
    }
}

/// Waits until an idle connection should close during a drain.
async fn drain_grace_ended(mut drain: watch::Receiver<bool>) {
    // An error means that the sender was dropped: drain as well.
    let _ = drain.wait_for(|drain| *drain).await;
    time::sleep(DRAIN_GRACE).await;
}

/// Waits until the client exceeds a time limit.
async fn too_slow(slot: &ConnectionSlot) {
    while !slot.too_slow(HEADERS_TIMEOUT, STALL_TIMEOUT) {
        time::sleep(SLOW_TICK).await;
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
