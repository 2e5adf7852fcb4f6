//! Records traces: decides which requests are sampled, and builds their spans when they are done.
//! Spans go into a bounded queue and never block; the supervisor's exporter reads the other end.
//! Used by the middleware of the contracts and by updates.

mod sampler;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use onnxd_proto::domain::span::{Attribute, Span, Value};

pub use self::sampler::{Sampler, SamplerError, ratio};
use crate::{
    metrics::Metrics,
    trace::{TraceContext, new_span_id},
};

/// Maximum finished traces that wait for the exporter. Further ones are dropped.
pub const QUEUE_TRACES_MAX: usize = 1024;

/// Starts recordings. Cheap to clone; the default records nothing.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sampler: Sampler,
    queue: SyncSender<Vec<Span>>,
    metrics: Arc<Metrics>,
}

impl Tracer {
    /// Creates a tracer, and the end of the queue where each finished trace arrives.
    pub fn new(sampler: Sampler, metrics: Arc<Metrics>) -> (Self, Receiver<Vec<Span>>) {
        let (queue, traces) = mpsc::sync_channel(QUEUE_TRACES_MAX);
        (Self(Some(Arc::new(Inner { sampler, queue, metrics }))), traces)
    }

    /// Returns whether anything may be recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Starts to record a request with this parent, if it is sampled. `starts_traces` is false for
    /// requests that are only recorded as part of their caller's trace.
    pub fn request(
        &self,
        start: Instant,
        parent: Option<TraceContext>,
        starts_traces: bool,
    ) -> Option<Recording> {
        let inner = self.0.as_ref()?;
        let trace = match parent {
            None if !starts_traces => return None,
            Some(parent) => parent.child(),
            None => TraceContext::root(true),
        };
        let sampled = inner.sampler.samples(trace.trace_id(), parent);
        sampled.then(|| Recording::new(inner, start, trace, parent))
    }

    /// Tells the other end of the queue that it has all traces: the last one is empty.
    pub fn stop(&self) {
        if let Some(inner) = &self.0 {
            // If the queue is full, its reader does not come to the end in time anyway.
            let _ = inner.queue.try_send(Vec::new());
        }
    }

    /// Starts to record an update, which has no parent. Updates are rare, so the ratio does not apply.
    pub fn update(&self, start: Instant) -> Option<Recording> {
        let inner = self.0.as_ref().filter(|inner| inner.sampler.samples_updates())?;
        Some(Recording::new(inner, start, TraceContext::root(true), None))
    }
}

/// A sampled request or update. [`Recording::finish`] sends its spans; dropping it discards them.
#[derive(Debug)]
pub struct Recording {
    inner: Arc<Inner>,
    /// Its span is the root span of this recording.
    context: TraceContext,
    parent: Option<TraceContext>,
    start: Instant,
    children: Vec<Part>,
}

/// A span's own properties.
#[derive(Debug)]
struct Part {
    name: Cow<'static, str>,
    start: Instant,
    end: Instant,
    error: Option<Failure>,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A word for the kind of failure, for `error.type`.
    pub kind: Cow<'static, str>,
    /// What went wrong, for people.
    pub message: String,
}

impl Failure {
    /// Adds the attribute of this failure, and returns the status message of its span.
    fn describe(self, attributes: &mut Vec<Attribute>) -> String {
        attributes.push(("error.type".into(), Value::from(&*self.kind)));
        self.message
    }
}

/// The properties of a root span that are known at its end.
#[derive(Debug)]
pub struct Root {
    pub name: Cow<'static, str>,
    /// Whether a client's request caused it.
    pub is_server: bool,
    pub attributes: Vec<Attribute>,
    /// Why the operation failed, if it did.
    pub error: Option<Failure>,
}

impl Recording {
    fn new(
        inner: &Arc<Inner>,
        start: Instant,
        context: TraceContext,
        parent: Option<TraceContext>,
    ) -> Self {
        let context = context.recorded();
        Self { inner: Arc::clone(inner), context, parent, start, children: Vec::new() }
    }

    /// Returns the root span, as the parent of what it causes.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Returns when the root span starts.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Adds a child of the root span.
    pub fn child(&mut self, name: impl Into<Cow<'static, str>>, start: Instant, end: Instant) {
        self.children.push(Part { name: name.into(), start, end, error: None });
    }

    /// Marks the child added last as failed.
    pub fn fail_child(&mut self, failure: Failure) {
        if let Some(child) = self.children.last_mut() {
            child.error = Some(failure);
        }
    }

    /// Ends the root span at `end` and sends all spans, or counts them as dropped.
    pub fn finish(self, end: Instant, root: Root) {
        let clock = Clock::read();
        let Root { name, is_server, mut attributes, error } = root;
        let error = error.map(|failure| failure.describe(&mut attributes));
        let trace = self.context.trace_id();
        let mut spans = Vec::with_capacity(self.children.len() + 1);
        spans.push(Span {
            trace,
            id: self.context.span_id(),
            parent: self.parent.map(TraceContext::span_id),
            name,
            is_server,
            start: clock.nanos(self.start),
            end: clock.nanos(end),
            attributes,
            error,
        });
        spans.extend(self.children.into_iter().map(|part| {
            let mut attributes = Vec::new();
            let error = part.error.map(|failure| failure.describe(&mut attributes));
            Span {
                trace,
                id: new_span_id(),
                parent: Some(self.context.span_id()),
                name: part.name,
                is_server: false,
                // Children stay inside their parent, even if a worker's clock is slightly off.
                start: clock.nanos(part.start.clamp(self.start, end.max(self.start))),
                end: clock.nanos(part.end.clamp(self.start, end.max(self.start))),
                attributes,
                error,
            }
        }));
        let count = spans.len();
        if self.inner.queue.try_send(spans).is_err() {
            self.inner.metrics.spans_dropped_total.queue.add(count as u64);
        }
    }
}

/// The wall clock and the monotonic clock at one moment. Read once per trace, so that its spans fit
/// each other even if the wall clock is set meanwhile.
struct Clock {
    wall: Duration,
    monotonic: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "collectors compare spans of several machines")]
    fn read() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall, monotonic: Instant::now() }
    }

    /// Returns a moment in nanoseconds since the Unix epoch.
    fn nanos(&self, at: Instant) -> u64 {
        let wall = match self.monotonic.checked_duration_since(at) {
            Some(ago) => self.wall.saturating_sub(ago),
            None => self.wall.saturating_add(at.duration_since(self.monotonic)),
        };
        u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn root(name: &'static str) -> Root {
        Root { name: name.into(), is_server: true, attributes: Vec::new(), error: None }
    }

    #[test]
    fn children_are_inside_the_root_span_of_the_callers_trace() {
        let (tracer, traces) = Tracer::new(Sampler::parent_or_ratio(0.0), Arc::default());
        let (start, parent) = (Instant::now(), TraceContext::from_traceparent(PARENT));
        let mut recording = tracer.request(start, parent, false).unwrap();
        let ms = Duration::from_millis;
        recording.child("queue", start + ms(1), start + ms(3));
        recording.child("late", start + ms(4), start + ms(90));
        recording.finish(start + ms(10), root("r"));
        let spans = traces.try_recv().unwrap();
        let [root, queue, late] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(
            (root.trace, root.parent),
            (parent.unwrap().trace_id(), Some(0x00f0_67aa_0ba9_02b7))
        );
        assert_eq!(root.end - root.start, 10_000_000);
        assert_eq!((queue.start - root.start, queue.end - queue.start), (1_000_000, 2_000_000));
        assert_eq!(late.end, root.end, "a child does not outlive its parent");
        assert!(
            spans[1..].iter().all(|span| span.parent == Some(root.id) && span.trace == root.trace)
        );
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let metrics = Arc::new(Metrics::default());
        let (tracer, traces) = Tracer::new(Sampler::parent_or_ratio(1.0), Arc::clone(&metrics));
        for _ in 0..QUEUE_TRACES_MAX + 2 {
            let now = Instant::now();
            tracer.request(now, None, true).unwrap().finish(now, root("r"));
        }
        assert_eq!(metrics.spans_dropped_total.queue.get(), 2);
        drop(traces);
        let now = Instant::now();
        tracer.update(now).unwrap().finish(now, root("u"));
        assert_eq!(metrics.spans_dropped_total.queue.get(), 3, "the exporter has ended");
    }

    #[test]
    fn requests_that_are_not_sampled_are_not_recorded() {
        let now = Instant::now();
        assert!(
            Tracer::default().request(now, TraceContext::from_traceparent(PARENT), true).is_none()
        );
        let (tracer, _traces) = Tracer::new(Sampler::parent_or_ratio(1.0), Arc::default());
        let unsampled = TraceContext::from_traceparent(&PARENT.replace("-01", "-00"));
        assert!(tracer.request(now, unsampled, true).is_none());
        assert!(tracer.request(now, None, false).is_none(), "it starts no traces");
    }
}
