//! One line of the access log. It is written when the response was sent completely, or when the
//! client disconnects.
//!
//! Text that a client chose is a field of type string, which both formats quote and escape. The path is
//! never logged, only the template of its route: a path or a query may contain secrets.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::MatchedPath,
    http::{HeaderMap, Request, Response, Uri, header::CONTENT_LENGTH},
};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use onnxd_telemetry::{
    metrics::Metrics,
    trace::{self, RequestIdentity},
};

use super::mode::Mode;

/// Target of the events, for filters such as `warn,onnxd::access=info`.
const TARGET: &str = "onnxd::access";
/// Logged if the client disconnected before the response. No response has this status.
const CLIENT_CLOSED: u16 = 499;

/// A request that may be logged when this is dropped.
pub(super) struct Entry {
    metrics: Arc<Metrics>,
    mode: Mode,
    started: Instant,
    method: &'static str,
    uri: Uri,
    matched: Option<MatchedPath>,
    client: IpAddr,
    identity: RequestIdentity,
    received: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    /// `None` until there is a response.
    outcome: Option<Outcome>,
}

/// What the response's headers say.
struct Outcome {
    status: u16,
    /// Status code of a gRPC call that failed before it sent a message.
    grpc_status: Option<u16>,
    headers: HeaderMap,
    is_logged: bool,
}

impl Entry {
    /// Begins to measure a request.
    pub(super) fn begin(
        (mode, metrics): (Mode, &Arc<Metrics>),
        request: &mut Request<Body>,
        client: IpAddr,
        identity: RequestIdentity,
    ) -> Self {
        let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let length = length.and_then(|length| length.parse().ok());
        let received = Arc::new(AtomicU64::new(length.unwrap_or(0)));
        if length.is_none() && !request.body().is_end_stream() {
            let body = std::mem::take(request.body_mut());
            *request.body_mut() = Counted::body(body, &received, None);
        }
        Self {
            metrics: Arc::clone(metrics),
            mode,
            started: Instant::now(),
            method: trace::method_name(request.method().as_str()),
            uri: request.uri().clone(),
            matched: request.extensions().get().cloned(),
            client,
            identity,
            received,
            sent: Arc::default(),
            outcome: None,
        }
    }

    /// Returns the response, which completes this entry when it was sent.
    pub(super) fn answered(mut self, response: Response<Body>) -> Response<Body> {
        let headers = response.headers();
        let status = response.status();
        let grpc_status = headers.get("grpc-status").and_then(|value| value.to_str().ok());
        let grpc_status = grpc_status.and_then(|status| status.parse().ok()).filter(|&it| it != 0);
        let failed = grpc_status.is_some() || status.is_client_error() || status.is_server_error();
        let is_logged = self.mode.includes(failed);
        let headers = if is_logged { headers.clone() } else { HeaderMap::new() };
        self.outcome = Some(Outcome { status: status.as_u16(), grpc_status, headers, is_logged });
        if !is_logged {
            return response;
        }
        let sent = Arc::clone(&self.sent);
        response.map(|body| Counted::body(body, &sent, Some(self)))
    }

    /// Returns the template of the route. Paths of gRPC methods are templates.
    fn route(&self) -> &str {
        let path = self.uri.path();
        match &self.matched {
            _ if self.metrics.routes.has(path) => path,
            Some(matched) => matched.as_str(),
            None => "other",
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let none = HeaderMap::new();
        let (status, grpc_status, headers) = match &self.outcome {
            Some(outcome) if !outcome.is_logged => return,
            Some(outcome) => (outcome.status, outcome.grpc_status, &outcome.headers),
            None => (CLIENT_CLOSED, None, &none),
        };
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let timing = text("server-timing");
        tracing::info!(
            target: TARGET,
            method = self.method,
            route = self.route(),
            status,
            grpc_status,
            model = text("x-model-name"),
            generation = text("x-model-generation").and_then(|text| text.parse::<u64>().ok()),
            request_bytes = self.received.load(Ordering::Relaxed),
            response_bytes = self.sent.load(Ordering::Relaxed),
            duration_ms = millis(self.started.elapsed()),
            queue_ms = part(timing, "queue"),
            tokenize_ms = part(timing, "tokenize"),
            infer_ms = part(timing, "infer"),
            client = %self.client,
            request_id = self.identity.request_id.as_str(),
            trace_id = self.identity.trace_id().map(|id| format!("{id:032x}")).as_deref(),
            "request"
        );
    }
}

/// Returns milliseconds with three decimals.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Returns the duration of a part of our own `server-timing`: `queue;dur=0.012, infer;dur=1.500`.
fn part(timing: Option<&str>, name: &str) -> Option<f64> {
    let part = timing?.split(", ").find_map(|part| part.strip_prefix(name));
    part?.strip_prefix(";dur=")?.parse().ok()
}

/// A body that counts its bytes, and keeps the entry until it was read or dropped.
struct Counted {
    body: Body,
    count: Arc<AtomicU64>,
    _entry: Option<Entry>,
}

impl Counted {
    fn body(body: Body, count: &Arc<AtomicU64>, entry: Option<Entry>) -> Body {
        Body::new(Self { body, count: Arc::clone(count), _entry: entry })
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            self.count.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_our_server_timing_are_found() {
        let timing = Some("queue;dur=0.012, tokenize;dur=0.500, infer;dur=12.000");
        assert_eq!(part(timing, "queue"), Some(0.012));
        assert_eq!(part(timing, "infer"), Some(12.0));
        assert_eq!((part(timing, "load"), part(None, "queue")), (None, None));
    }

    #[test]
    fn milliseconds_have_three_decimals() {
        assert_eq!(millis(Duration::from_nanos(1_234_567)).to_string(), "1.235");
    }
}
