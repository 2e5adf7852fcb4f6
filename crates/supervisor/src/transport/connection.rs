//! One accepted connection: the TLS handshake, the choice of the protocol, its time limits, and HTTP/1.1.
//! Started by [`crate::transport::listener`]; [`crate::transport::http2`] processes HTTP/2.
//!
//! hyper's header timeout also runs while a connection is idle, so it is the idle timeout here. A client
//! that is slow to send its headers, or to read a response, is closed sooner.

use std::{
    net::IpAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::{HeaderValue, Request, header::CONNECTION},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::Watcher,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
    time,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::transport::{
    access,
    error::Rewrite,
    guarded_body::{BodyResource, GuardedBody},
    http2::{self, MayIdle},
    malformed,
    preface::Begun,
    requests,
    slots::{ConnectionSlot, Phase},
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
/// `connection: close`, or over HTTP/2 after GOAWAY.
pub(super) const DRAIN_GRACE: Duration = Duration::from_secs(2);
/// Maximum size of request headers in bytes.
const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// ALPN names of the protocols.
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

/// What the clients of a listener may speak.
#[derive(Clone, Copy, Debug)]
pub(super) enum Protocol {
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

    /// Returns how many bytes an HTTP/2 client may send before they are read.
    fn unread_bytes_max(self) -> u32 {
        match self {
            Self::Http1 | Self::Any => http2::UNREAD_BYTES_MAX,
            Self::Http2 { .. } => http2::UNREAD_MESSAGE_BYTES_MAX,
        }
    }
}

/// An accepted connection.
pub(super) struct Connection {
    pub protocol: Protocol,
    /// The other end's address.
    pub peer: IpAddr,
    pub metrics: Arc<Metrics>,
    pub router: Router,
    pub rewrite: Rewrite,
    pub tls: Option<Arc<Tls>>,
    pub slot: Arc<ConnectionSlot>,
    pub watcher: Watcher,
    pub drain: watch::Receiver<bool>,
    pub idle_timeout: Duration,
}

impl Connection {
    /// Processes the connection until it ends, exceeds a time limit, or is evicted.
    pub(super) async fn run(self, stream: TcpStream) {
        let slot = Arc::clone(&self.slot);
        tokio::select! {
            () = self.process(stream) => {}
            () = too_slow(&slot) => tracing::debug!("closed a slow connection"),
            () = slot.evicted() => tracing::debug!("evicted an idle connection"),
        }
    }

    async fn process(mut self, stream: TcpStream) {
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
                    _ => self.process_http1(stream, last).await,
                }
            }
            Err(error) => malformed::report_tls(&error, self.peer, &self.metrics),
        }
    }

    /// Processes a connection without TLS by the protocol that the client speaks.
    async fn choose(self, stream: TcpStream) {
        match self.protocol {
            Protocol::Http1 => return self.process_http1(stream, false).await,
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
            Ok((stream, false)) => self.process_http1(stream, false).await,
            Err(error) => tracing::debug!(%error, "connection failed"),
        }
    }

    async fn process_http2(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        may_idle: MayIdle,
    ) {
        let unread_bytes_max = self.protocol.unread_bytes_max();
        let Self { router, rewrite, peer, metrics, slot, watcher, drain, idle_timeout, .. } = self;
        let calls = http2::Calls {
            router,
            rewrite,
            peer,
            metrics,
            slot,
            may_idle,
            unread_bytes_max,
            idle_timeout,
        };
        http2::process(stream, calls, watcher, drain).await;
    }

    /// Processes HTTP/1.1 requests until the connection ends. If `last`, only one: the client finished its
    /// handshake during a drain and is about to send a request.
    async fn process_http1(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        last: bool,
    ) {
        let Self { router, rewrite, peer, metrics, slot, watcher, drain, idle_timeout, .. } = self;
        let (seen, draining) = (Arc::clone(&slot), drain.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (router, seen, drain) = (router.clone(), Arc::clone(&seen), draining.clone());
            async move {
                let answering = BusyGuard::begin(seen);
                let request = requests::normalized(access::arrived(request, peer), rewrite);
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
#[path = "connection_tests.rs"]
mod tests;
