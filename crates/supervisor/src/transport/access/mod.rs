//! Identifies each request and logs it: `x-request-id`, `traceparent`, and the access log. Outside of
//! all other layers, so that refused requests are included. Used by [`crate::transport::listener`].
//!
//! - [`mode`]: which requests are logged.
//! - [`proxies`]: which peers may name the client's address.
//! - [`entry`]: one line of the log.

mod entry;
pub(crate) mod mode;
pub(crate) mod proxies;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderName, HeaderValue, Request, Response},
    middleware::{self, Next},
};
use hyper::body::Incoming;
use onnxd_telemetry::{metrics::Metrics, trace::RequestIdentity};

use self::{entry::Entry, mode::Mode, proxies::Proxies};

/// Names a request, in the request and in the response.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The caller's span, as W3C Trace Context writes it.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The settings of the access log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AccessLog {
    pub mode: Mode,
    pub proxies: Proxies,
}

/// The address at the other end of the connection.
#[derive(Clone, Copy, Debug)]
struct Peer(IpAddr);

/// Returns the address that a request came from.
pub(super) fn peer(request: &Request<Body>) -> IpAddr {
    request.extensions().get().map_or(IpAddr::from([0; 4]), |Peer(peer)| *peer)
}

/// Returns a request as the routes expect it, with the address it came from.
pub(crate) fn arrived(request: Request<Incoming>, peer: IpAddr) -> Request<Body> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(Peer(peer));
    request
}

/// Wraps routes. Every request gets a [`RequestIdentity`] in its extensions.
pub(crate) fn around(router: Router, log: &AccessLog, metrics: &Arc<Metrics>) -> Router {
    let state = Arc::new((log.clone(), Arc::clone(metrics)));
    router.layer(middleware::from_fn_with_state(state, identify))
}

async fn identify(
    State(state): State<Arc<(AccessLog, Arc<Metrics>)>>,
    mut request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let (log, metrics) = &*state;
    let (id, entry) = begin(log, metrics, &mut request);
    let mut response = next.run(request).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    match entry {
        Some(entry) => entry.answered(response),
        None => response,
    }
}

/// Identifies a request. Returns its id, and its entry if it may be logged.
fn begin(
    log: &AccessLog,
    metrics: &Arc<Metrics>,
    request: &mut Request<Body>,
) -> (Option<HeaderValue>, Option<Entry>) {
    let header = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let identity = RequestIdentity::new(header(REQUEST_ID), header(TRACEPARENT));
    // Never fails: the id is printable ASCII.
    let id = HeaderValue::from_str(identity.request_id.as_str()).ok();
    let entry = (log.mode != Mode::Off).then(|| {
        let client = log.proxies.client(peer(request), request.headers());
        Entry::begin((log.mode, metrics), request, client, identity.clone())
    });
    request.extensions_mut().insert(identity);
    (id, entry)
}
