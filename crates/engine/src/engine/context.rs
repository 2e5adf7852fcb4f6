//! The context of a request besides its inputs: start time, timeout, priority and trace. Contracts
//! build one per request.

use std::time::{Duration, Instant};

use onnxd_telemetry::trace::TraceContext;

use crate::dispatch::Priority;

/// The context of one request.
///
/// Cancellation needs no field: dropping the future of an engine call cancels it. This closes the
/// answer channel, and the dispatcher drops every item that has not reached a worker. Answers in
/// flight are discarded.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext {
    started: Instant,
    timeout: Option<Duration>,
    priority: Priority,
    trace: Option<TraceContext>,
}

impl Default for RequestContext {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestContext {
    /// Creates an interactive request that starts now and has only the server's time limit.
    pub fn new() -> Self {
        let (timeout, priority, trace) = (None, Priority::default(), None);
        Self { started: Instant::now(), timeout, priority, trace }
    }

    /// Returns the same request with its timeout limited to `time`. It runs from the call to the
    /// engine, not from [`RequestContext::started`]: reading a body has a separate limit.
    #[must_use]
    pub fn within(self, time: Duration) -> Self {
        let timeout = self.timeout.map_or(time, |timeout| timeout.min(time));
        Self { timeout: Some(timeout), ..self }
    }

    /// Returns the same request with another priority.
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Returns the same request as part of a trace.
    #[must_use]
    pub fn in_trace(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    /// Returns when the request started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns the request's timeout, if it has one.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Returns the request's priority.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// Returns the trace that the request belongs to, if any.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_several_timeouts_applies() {
        let context = RequestContext::new();
        assert_eq!(context.timeout(), None);
        let [long, short] = [Duration::from_secs(9), Duration::from_secs(2)];
        let limited = context.within(long).within(short).within(long);
        assert_eq!(limited.timeout(), Some(short));
        assert_eq!(limited.started(), context.started());
    }
}
