//! Middleware before all services: API keys, metrics and limits on request bodies.

use std::{collections::HashMap, sync::Arc, time::Instant};

use axum::{
    body::Body,
    extract::{Request, State},
    http::Response,
    middleware::Next,
};
use tokio::sync::watch;

use crate::api::grpc::{
    body::RequestBody,
    methods::{Method, methods},
    status,
};
use crate::{
    api::{
        app::App,
        traces::{self, Target, Traced},
    },
    transport::{error::TransportError, guarded_body::GuardedBody, keys::Keys, unpack},
};

/// Open without an API key, for probes.
const UNAUTHENTICATED: [&str; 4] = [
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// The header that names the compression of messages.
const ENCODING: &str = "grpc-encoding";

/// State of the middleware.
#[derive(Debug)]
pub(super) struct Middleware {
    app: App,
    keys: Option<Arc<Keys>>,
    drain: watch::Receiver<bool>,
    methods: HashMap<String, Method>,
}

impl Middleware {
    pub(super) fn new(app: App, keys: Option<Arc<Keys>>, drain: watch::Receiver<bool>) -> Self {
        let methods = methods().into_iter().map(|method| (method.path.clone(), method)).collect();
        Self { app, keys, drain, methods }
    }

    fn allows(&self, request: &Request) -> bool {
        let Some(keys) = &self.keys else { return true };
        UNAUTHENTICATED.contains(&request.uri().path()) || keys.allow(request.headers())
    }
}

/// Wraps all services. A streaming call counts once, when it begins.
pub(super) async fn handle(
    State(middleware): State<Arc<Middleware>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let start = Instant::now();
    let method = middleware.methods.get(request.uri().path());
    let route = middleware.app.engine.metrics().routes.find(method.map(|method| &*method.path));
    let target = Target::Grpc(method.map_or("", |method| &*method.path));
    let traced = traces::begin(&middleware.app.tracer, start, &target, &mut request);
    let mut response = if middleware.allows(&request) {
        let (mut head, body) = request.into_parts();
        let packing = unpack::named(head.headers.get(ENCODING)).unwrap_or_default();
        if packing.is_some() {
            // The services see uncompressed messages. They reject encodings unknown to us.
            head.headers.remove(ENCODING);
        }
        let (memory, drain) = (middleware.app.engine.memory().clone(), middleware.drain.clone());
        let body = RequestBody::new(body, memory, packing, method, drain);
        let reservations = body.reservations();
        head.extensions.insert(Arc::clone(&reservations));
        let request = Request::from_parts(head, Body::new(body));
        let response = traces::handle(traced.as_ref(), next.run(request)).await;
        response.map(|body| Body::new(GuardedBody::new(body, reservations)))
    } else {
        status::transport(TransportError::Unauthorized).into_http()
    };
    let trace_id = traced.as_ref().map(Traced::trace_id);
    let status = status::counted(response.headers());
    route.answered(status.as_u16(), start.elapsed(), trace_id);
    if let Some(traced) = traced {
        traced.finish(&mut response, status);
    }
    response
}
