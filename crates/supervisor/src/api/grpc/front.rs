//! What stands before the services: who may call, what is counted, and the limits of what comes in.

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
    api::app::App,
    transport::{error::TransportError, holding::Holding, keys::Keys, unpack},
};

/// What probes call, and probes have no key.
const OPEN: [&str; 4] = [
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// How messages are packed.
const ENCODING: &str = "grpc-encoding";

/// What stands before the services.
#[derive(Debug)]
pub(super) struct Front {
    app: App,
    keys: Option<Arc<Keys>>,
    drain: watch::Receiver<bool>,
    methods: HashMap<String, Method>,
}

impl Front {
    pub(super) fn new(app: App, keys: Option<Arc<Keys>>, drain: watch::Receiver<bool>) -> Self {
        let methods = methods().into_iter().map(|method| (method.path.clone(), method)).collect();
        Self { app, keys, drain, methods }
    }

    fn allows(&self, request: &Request) -> bool {
        let Some(keys) = &self.keys else { return true };
        OPEN.contains(&request.uri().path()) || keys.allow(request.headers())
    }
}

/// Around all services. A call for more than one message is counted once, when it begins.
pub(super) async fn around(
    State(front): State<Arc<Front>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let start = Instant::now();
    let method = front.methods.get(request.uri().path());
    let route = front.app.engine.metrics().routes.find(method.map(|method| &*method.path));
    let response = if front.allows(&request) {
        let (mut head, body) = request.into_parts();
        let packing = unpack::named(head.headers.get(ENCODING)).unwrap_or_default();
        if packing.is_some() {
            // What comes after us sees nothing packed; what we do not know it refuses.
            head.headers.remove(ENCODING);
        }
        let (memory, drain) = (front.app.engine.memory().clone(), front.drain.clone());
        let body = RequestBody::new(body, memory, packing, method, drain);
        let paid = body.paid();
        head.extensions.insert(Arc::clone(&paid));
        let response = next.run(Request::from_parts(head, Body::new(body))).await;
        response.map(|body| Body::new(Holding::new(body, paid)))
    } else {
        status::transport(TransportError::KeyNeeded).into_http()
    };
    route.answered(status::counted(response.headers()).as_u16(), start.elapsed());
    response
}
