//! What a request brings along besides its inputs: when it began, how long it may take, who it is
//! for, and which trace it belongs to. Contracts build one for each request.

use std::time::{Duration, Instant};

use onnxd_telemetry::trace::TraceContext;

use crate::dispatch::Priority;

/// The circumstances of one request.
///
/// Cancellation needs no field: dropping the future of a call to the engine cancels it. The
/// channel for the answers closes then, and the dispatcher drops every item that has not reached a
/// worker; an answer that is on its way is thrown away.
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
    /// An interactive request that begins now, with the server's own limit on its time.
    pub fn new() -> Self {
        let (timeout, priority, trace) = (None, Priority::default(), None);
        Self { started: Instant::now(), timeout, priority, trace }
    }

    /// Returns the same request, which must also be answered within `time`. The time runs from the
    /// call to the engine, not from [`RequestContext::started`]: reading a body has its own limit.
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

    /// Returns the same request as a part of a trace.
    #[must_use]
    pub fn in_trace(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    /// When the request began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How long the request may take, if it says so itself.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Who the request is for.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// The trace that the request belongs to, if any.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_several_timeouts_holds() {
        let context = RequestContext::new();
        assert_eq!(context.timeout(), None);
        let [long, short] = [Duration::from_secs(9), Duration::from_secs(2)];
        let limited = context.within(long).within(short).within(long);
        assert_eq!(limited.timeout(), Some(short));
        assert_eq!(limited.started(), context.started());
    }
}
