//! Records the spans of requests, for the middleware of HTTP and gRPC. A recorded request continues
//! the trace in its `traceparent` header. Inference leaves its [`Origin`] in the response.

use std::{borrow::Cow, mem, time::Instant};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, Response, StatusCode},
};
use onnxd_engine::{dispatch::Phases, engine::Origin};
use onnxd_proto::domain::span::Attribute;
use onnxd_telemetry::{
    trace::RequestIdentity,
    tracer::{Recording, Root, Tracer},
};

use crate::transport::access::{TRACEPARENT, method_name};

/// The gRPC method whose calls start traces.
const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// A request that is recorded. Dropping it before its end means that the client disconnected.
#[derive(Debug)]
pub(crate) struct Traced {
    trace_id: u128,
    /// `None` once it has ended.
    recording: Option<Recording>,
    name: Cow<'static, str>,
    attributes: Vec<Attribute>,
    is_grpc: bool,
}

/// What a request is for.
pub(crate) enum Target<'a> {
    /// A route, by its template.
    Http(Option<&'a str>),
    /// The path of a gRPC method.
    Grpc(&'a str),
}

/// Starts to record a request, if it is sampled. Probes and scrapes start no traces.
pub(crate) fn begin(
    tracer: &Tracer,
    start: Instant,
    target: &Target<'_>,
    request: &mut Request,
) -> Option<Traced> {
    if !tracer.is_on() {
        return None;
    }
    let identity = request.extensions().get::<RequestIdentity>();
    let starts_traces = match target {
        Target::Http(route) => request.method() == Method::POST && route.is_some(),
        Target::Grpc(method) => *method == MODEL_INFER,
    };
    let parent = identity.and_then(|identity| identity.trace);
    let recording = tracer.request(start, parent, starts_traces)?;
    let (name, mut attributes): (_, Vec<Attribute>) = match target {
        Target::Http(route) => {
            // The path may contain anything; a span's name has few values.
            let (method, route) = (method_name(request.method()), route.unwrap_or_default());
            let attributes = vec![
                ("http.request.method".into(), method.into()),
                ("http.route".into(), route.into()),
            ];
            let method = if method == "_OTHER" { "HTTP" } else { method };
            (format!("{method} {route}").trim_end().to_owned(), attributes)
        }
        Target::Grpc(method) => {
            let method = method.trim_start_matches('/');
            let attributes =
                vec![("rpc.system".into(), "grpc".into()), ("rpc.method".into(), method.into())];
            (method.to_owned(), attributes)
        }
    };
    if let Some(identity) = identity {
        attributes.push(("onnxd.request.id".into(), identity.request_id.as_str().into()));
    }
    // The handler sees this span as its parent, and that it is sampled.
    if let Ok(value) = HeaderValue::from_str(&recording.context().to_string()) {
        request.headers_mut().insert(TRACEPARENT, value);
    }
    let (trace_id, is_grpc) = (recording.context().trace_id(), matches!(target, Target::Grpc(_)));
    Some(Traced { trace_id, recording: Some(recording), name: name.into(), attributes, is_grpc })
}

impl Traced {
    /// Returns the trace's id.
    pub(crate) fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// Ends the request with its response. `status` is the HTTP status of the outcome.
    pub(crate) fn finish(mut self, response: &mut Response<Body>, status: StatusCode) {
        let end = Instant::now();
        if self.is_grpc {
            // A success is in the trailers.
            let status = response.headers().get("grpc-status");
            let status = status.and_then(|status| status.to_str().ok()?.parse::<u64>().ok());
            self.attribute("rpc.grpc.status_code", status.unwrap_or_default());
        } else {
            self.attribute("http.response.status_code", u64::from(status.as_u16()));
        }
        if let Some(origin) = response.extensions_mut().remove::<Origin>() {
            self.attribute("onnxd.model", origin.model.name.as_str());
            self.attribute("onnxd.generation", origin.generation);
            self.attribute("onnxd.version", origin.record.version.as_str());
            self.attribute("onnxd.tokens", origin.tokens);
            if let Some(recording) = &mut self.recording {
                add_phases(recording, origin.phases, end);
            }
        }
        // A client's mistake is no error of the server.
        self.end(end, status.is_server_error().then(|| status.to_string()));
    }

    /// Sends the spans, once.
    fn end(&mut self, end: Instant, error: Option<String>) {
        let Some(recording) = self.recording.take() else { return };
        let (name, attributes) = (mem::take(&mut self.name), mem::take(&mut self.attributes));
        recording.finish(end, Root { name, is_server: true, attributes, error });
    }

    fn attribute(
        &mut self,
        name: &'static str,
        value: impl Into<onnxd_proto::domain::span::Value>,
    ) {
        self.attributes.push((name.into(), value.into()));
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.end(Instant::now(), Some("the client disconnected".to_owned()));
    }
}

/// Adds a child for each phase.
fn add_phases(recording: &mut Recording, phases: Phases, end: Instant) {
    let Phases { queued_at, timing, answered_at } = phases;
    let delivered = queued_at + timing.queue;
    // A worker may run other micro-batches of the group between tokenizing and inference.
    let inference = answered_at.checked_sub(timing.infer).unwrap_or(answered_at).max(delivered);
    recording.child("admission", recording.start(), queued_at);
    recording.child("queue", queued_at, delivered);
    if !timing.tokenize.is_zero() {
        recording.child("tokenize", delivered, (delivered + timing.tokenize).min(inference));
    }
    recording.child("inference", inference, answered_at);
    recording.child("encode", answered_at, end);
}
