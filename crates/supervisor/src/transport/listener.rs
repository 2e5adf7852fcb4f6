//! Accepts connections, limits their number, and drains them. Started by `serve`, which passes the routes.
//! When all [`crate::transport::slots`] are in use, a new connection evicts the one that has been idle
//! longest. [`crate::transport::connection`] processes each connection.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::Router;
use hyper_util::server::graceful::GracefulShutdown;
use nix::errno::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time,
};

use crate::transport::{
    access,
    connection::{Connection, DRAIN_GRACE, Protocol},
    edge::Edge,
    error::{Rewrite, Shapes},
    http2::{self, MayIdle},
    panics, requests,
    slots::{ConnectionSlot, ConnectionSlots},
    tls::Tls,
};
use onnxd_telemetry::metrics::Metrics;

/// Pause of the accept loop when descriptors are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Upper bound on connections in the kernel's accept queue when a drain begins.
const QUEUED_MAX: usize = 16_384;
/// How often the accept loop ticks without new connections.
const TICK: Duration = Duration::from_millis(100);

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
    rewrite: Rewrite,
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
        let rewrite = shapes.rewrite();
        let router = edge.around(requests::checked(router, &shapes, &metrics), &shapes);
        let router = panics::caught(router, shapes);
        let router = access::around(router, &edge.access_log, &metrics);
        let (tls, idle_timeout) = (edge.tls.clone(), edge.idle_timeout);
        let (protocol, ticks) = (Protocol::Http1, Arc::default());
        Self { socket, protocol, router, rewrite, tls, metrics, slots, ticks, idle_timeout }
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
        let (idle_timeout, rewrite): (_, Rewrite) = (http2::IDLE_TIMEOUT, |_| None);
        Self { socket, protocol, router, rewrite, tls, metrics, slots, ticks, idle_timeout }
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
        let counted = self.metrics.connected();
        let connection = Connection {
            protocol: self.protocol,
            // Fails only if the client has disconnected.
            peer: stream.peer_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip()),
            metrics: Arc::clone(&self.metrics),
            router: self.router.clone(),
            rewrite: self.rewrite,
            tls: self.tls.clone(),
            slot: Arc::new(slot),
            // Taken now, so that a drain also waits for handshakes.
            watcher: graceful.watcher(),
            drain: drain.clone(),
            idle_timeout: self.idle_timeout,
        };
        // A separate task from the first byte on, so that no client delays the next.
        tokio::spawn(async move {
            connection.run(stream).await;
            drop(counted);
        });
    }
}
