//! Records the spans of requests, for the middleware of HTTP and gRPC. A recorded request continues
//! the trace in its `traceparent` header. Inference leaves its [`Origin`] in the response; if it fails,
//! [`RequestProgress`] says how far it came.

use std::{borrow::Cow, future::Future, mem, time::Instant};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, Response, StatusCode},
};
use onnxd_engine::{
    dispatch::{
        Phases,
        progress::{Reached, RequestProgress},
    },
    engine::Origin,
};
use onnxd_proto::domain::span::Attribute;
use onnxd_telemetry::{
    trace::{self, RequestIdentity},
    tracer::{Failure, Recording, Root, Tracer},
};

use crate::transport::access::TRACEPARENT;

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
    /// How far inference came; `None` for requests that are not for inference.
    progress: Option<RequestProgress>,
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
            let method = trace::method_name(request.method().as_str());
            let route = route.unwrap_or_default();
            let attributes = vec![
                ("http.request.method".into(), method.into()),
                ("http.route".into(), route.into()),
            ];
            // OpenTelemetry's convention for the name of a span.
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
        identity.begin_trace(recording.context().trace_id());
        attributes.push(("onnxd.request.id".into(), identity.request_id.as_str().into()));
    }
    // The handler sees this span as its parent, and that it is sampled.
    if let Ok(value) = HeaderValue::from_str(&recording.context().to_string()) {
        request.headers_mut().insert(TRACEPARENT, value);
    }
    let (trace_id, is_grpc) = (recording.context().trace_id(), matches!(target, Target::Grpc(_)));
    let (recording, name) = (Some(recording), name.into());
    let progress = starts_traces.then(RequestProgress::default);
    Some(Traced { trace_id, recording, name, attributes, is_grpc, progress })
}

/// Runs the handler of a request, and notes how far it comes if it is recorded.
pub(crate) async fn handle<F: Future>(traced: Option<&Traced>, handler: F) -> F::Output {
    match traced.and_then(|traced| traced.progress.as_ref()) {
        Some(progress) => progress.scope(handler).await,
        None => handler.await,
    }
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
            // The spans are complete.
            self.progress = None;
        }
        let failure = self.progress.as_ref().and_then(|progress| progress.reached().failure);
        // A client's mistake is no error of the server.
        let error = match failure {
            Some(failure) if failure.is_fault => {
                Some(Failure { kind: failure.kind.into(), message: failure.message })
            }
            _ => status.is_server_error().then(|| Failure {
                kind: status.as_str().to_owned().into(),
                message: status.to_string(),
            }),
        };
        if error.is_none() && status.is_success() {
            self.progress = None;
        }
        self.end(end, error);
    }

    /// Sends the spans, once.
    fn end(&mut self, end: Instant, error: Option<Failure>) {
        let Some(mut recording) = self.recording.take() else { return };
        if let Some(progress) = self.progress.take() {
            add_reached(&mut recording, progress.reached(), end);
            if let Some(error) = &error {
                recording.fail_child(error.clone());
            }
        }
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
        let message = "the client disconnected".to_owned();
        self.end(Instant::now(), Some(Failure { kind: "client_disconnected".into(), message }));
    }
}

/// Adds a child for each phase that a failed request reached. The last one ends with the request.
fn add_reached(recording: &mut Recording, reached: Reached, end: Instant) {
    if let Some(phases) = reached.answered {
        return add_phases(recording, phases, end);
    }
    let queued_at = reached.submitted.unwrap_or(end);
    recording.child("admission", recording.start(), queued_at);
    if reached.submitted.is_some() {
        recording.child("queue", queued_at, reached.delivered.unwrap_or(end));
    }
    if let Some(delivered) = reached.delivered {
        // A worker that does not answer does not say when it has tokenized.
        let is_tokenizing = reached.failure.is_some_and(|failure| failure.is_tokenizing);
        recording.child(if is_tokenizing { "tokenize" } else { "inference" }, delivered, end);
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
