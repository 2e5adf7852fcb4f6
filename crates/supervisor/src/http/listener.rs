//! Connections: how many there may be, how long they may take, how they end; in the clear or, with
//! [`super::tls`], behind a handshake. Requests are the [`super::router`]'s affair.
//!
//! hyper's own header timeout also runs while a connection is idle, so it serves here as the
//! idle timeout; a client that has begun a request and does not finish its headers is closed
//! sooner, by [`Activity`].

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
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
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::{edge::Edge, tls::Tls};
use crate::{grpc, metrics::Metrics};

/// Connections at once. Further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 1024;
/// How long a connection may be idle between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a client may take to send the headers of a request it has begun, or to shake hands.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept while we drain: a request that is on its way is answered, and
/// the answer says that it is the last.
const PARTING: Duration = Duration::from_secs(2);
/// Bytes of a request's headers.
const HEADERS_BYTES_MAX: usize = 64 * 1024;
/// How long the accept loop rests when descriptors are used up, rather than spin.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// How often the accept loop shows that it is alive when nobody connects.
const TICK: Duration = Duration::from_millis(100);

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    /// HTTP/2, with connections of [`grpc::connection`].
    Grpc,
}

impl Protocol {
    /// As TLS names it (ALPN).
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Grpc => b"h2",
        }
    }
}

/// Accepts connections until it is told to drain.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    protocol: Protocol,
    router: Router,
    tls: Option<Arc<Tls>>,
    metrics: Arc<Metrics>,
    ticks: Arc<AtomicU64>,
}

impl Listener {
    /// A listener on a socket that is bound already, with what stands before its routes.
    pub(crate) fn new(
        socket: TcpListener,
        edge: &Edge,
        routes: Router,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (router, tls) = (edge.around(routes), edge.tls.clone());
        Self { socket, protocol: Protocol::Http1, router, tls, metrics, ticks: Arc::default() }
    }

    /// The same for gRPC. Who may call is not decided here, since errors are told in another way.
    pub(crate) fn grpc(
        socket: TcpListener,
        edge: &Edge,
        router: Router,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (protocol, tls) = (Protocol::Grpc, edge.tls.clone());
        Self { socket, protocol, router, tls, metrics, ticks: Arc::default() }
    }

    /// A number that changes as long as the accept loop lives.
    pub(crate) fn ticks(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.ticks)
    }

    /// Serves until `drain` becomes true, then finishes what has begun for at most
    /// `drain_timeout`.
    pub(crate) async fn run(self, mut drain: watch::Receiver<bool>, drain_timeout: Duration) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let graceful = GracefulShutdown::new();
        loop {
            self.ticks.fetch_add(1, Ordering::Relaxed);
            let connection = tokio::select! {
                connection = self.accept(&permits) => connection,
                () = time::sleep(TICK) => continue,
                // An error means that whoever drains has gone, which is as good a reason.
                _ = drain.wait_for(|drain| *drain) => break,
            };
            if let Some((stream, permit)) = connection {
                self.serve(stream, permit, &graceful, &drain);
            }
        }
        // Who is connected already, if not yet accepted, gets an answer too.
        while let Ok(Some((stream, permit))) =
            time::timeout(Duration::ZERO, self.accept(&permits)).await
        {
            self.serve(stream, permit, &graceful, &drain);
        }
        drop(self.socket);
        if time::timeout(drain_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!("connections were cut at the end of the drain time");
        }
    }

    async fn accept(&self, permits: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        if permits.available_permits() == 0 {
            self.metrics.connections_delayed_total.add();
        }
        let permit = Arc::clone(permits).acquire_owned().await.ok()?;
        match self.socket.accept().await {
            Ok((stream, _)) => Some((stream, permit)),
            Err(error) => {
                // One client that has gone again is no news; used up descriptors are.
                tracing::debug!(%error, "a connection could not be accepted");
                let used_up = [libc_emfile(), libc_enfile()];
                if error.raw_os_error().is_some_and(|code| used_up.contains(&code)) {
                    time::sleep(ACCEPT_REST).await;
                }
                None
            }
        }
    }

    fn serve(
        &self,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
        drain: &watch::Receiver<bool>,
    ) {
        // Small answers must not wait for more; where it cannot be set they do.
        let _ = stream.set_nodelay(true);
        let permit = (permit, self.metrics.connected());
        let activity = Arc::new(Activity::default());
        let connection = Connection {
            protocol: self.protocol,
            router: self.router.clone(),
            tls: self.tls.clone(),
            activity: Arc::clone(&activity),
            // Taken now, so that a drain also waits for who is still shaking hands.
            watcher: graceful.watcher(),
            drain: drain.clone(),
        };
        // In a task of its own from the first byte on: no client holds up the next.
        tokio::spawn(async move {
            tokio::select! {
                () = connection.run(stream) => {}
                () = activity.too_slow() => tracing::debug!("a client was too slow with its headers"),
            }
            drop(permit);
        });
    }
}

/// A connection from its first byte on.
struct Connection {
    protocol: Protocol,
    router: Router,
    tls: Option<Arc<Tls>>,
    activity: Arc<Activity>,
    watcher: Watcher,
    drain: watch::Receiver<bool>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream) {
        let Some(tls) = self.tls.take() else { return self.converse(stream, false).await };
        // A client that never shakes hands is as slow as one that never ends its headers.
        self.activity.set(Phase::Headers(Instant::now()));
        let mut first = [0];
        tokio::select! {
            biased;
            // The handshake meets the error again, if it is one.
            _ = stream.peek(&mut first) => {}
            // Who has said nothing yet is not waited for.
            _ = self.drain.wait_for(|drain| *drain) => return,
        }
        // Asked for now: the certificate may have changed since the client connected.
        match TlsAcceptor::from(tls.config(&[self.protocol.alpn()])).accept(stream).await {
            Ok(stream) => {
                let last = *self.drain.borrow();
                if !last {
                    self.activity.set(Phase::Idle);
                }
                self.converse(stream, last).await;
            }
            Err(error) => tracing::debug!(%error, "a client did not get through the handshake"),
        }
    }

    /// Answers one request after the other; only the first one where it is the `last`, of a
    /// client who shook hands while we drain and is about to ask.
    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, last: bool) {
        let Self { router, activity, watcher, drain, .. } = self;
        if self.protocol == Protocol::Grpc {
            return grpc::connection::converse(stream, router, watcher, drain).await;
        }
        let (seen, draining) = (Arc::clone(&activity), drain.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (router, seen, drain) = (router.clone(), Arc::clone(&seen), draining.clone());
            async move {
                seen.set(Phase::Answering);
                let mut response = router.oneshot(request.map(Body::new)).await;
                seen.set(Phase::Idle);
                if let (Ok(response), true) = (&mut response, *drain.borrow()) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_header_size(HEADERS_BYTES_MAX)
            .keep_alive(!last)
            .serve_connection(TokioIo::new(Watched { stream, activity }), service);
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

/// Returns when a connection that is idle is to be closed.
async fn parting(mut drain: watch::Receiver<bool>) {
    // An error means that whoever drains has gone, which is as good a reason.
    let _ = drain.wait_for(|drain| *drain).await;
    time::sleep(PARTING).await;
}

fn libc_emfile() -> i32 {
    nix::errno::Errno::EMFILE as i32
}

fn libc_enfile() -> i32 {
    nix::errno::Errno::ENFILE as i32
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing has come since the last answer.
    #[default]
    Idle,
    /// A request's headers have been coming since then.
    Headers(Instant),
    /// A request is read and answered; its body has time limits of its own.
    Answering,
}

/// The phase of a connection, told by its socket and its service.
#[derive(Debug, Default)]
struct Activity {
    phase: Mutex<Phase>,
}

impl Activity {
    fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Bytes have come.
    fn bytes(&self) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Idle {
            *phase = Phase::Headers(Instant::now());
        }
    }

    /// Returns when headers have been coming for too long.
    async fn too_slow(&self) {
        loop {
            time::sleep(HEADERS_TIMEOUT / 4).await;
            let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(phase, Phase::Headers(since) if since.elapsed() >= HEADERS_TIMEOUT) {
                return;
            }
        }
    }
}

/// A socket, or the inside of TLS, that tells [`Activity`] when bytes come.
#[derive(Debug)]
struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.bytes();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
