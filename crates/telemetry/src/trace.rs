//! What identifies a request in logs and traces: the W3C Trace Context and the request id. Callers
//! parse them from their protocol's headers; the transport makes what is missing, and the engine
//! carries the trace.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// Length of a version 00 `traceparent`: version, trace, span and flags with three dashes.
const TRACEPARENT_BYTES: usize = 55;
/// Flag that asks to record the trace.
const SAMPLED: u8 = 1;
/// Maximum length of a request id that a client may choose.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// What identifies a request. The transport keeps it in the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestIdentity {
    /// Returned to the client, and logged.
    pub request_id: RequestId,
    /// The caller's span, if the caller sent a valid `traceparent`.
    pub trace: Option<TraceContext>,
    /// The trace that onnxd began instead. Shared by all clones.
    begun: Arc<OnceLock<u128>>,
}

impl RequestIdentity {
    /// Returns the identity of a request with these headers, and makes what is missing.
    pub fn new(request_id: Option<&[u8]>, traceparent: Option<&[u8]>) -> Self {
        let trace = traceparent.and_then(|header| str::from_utf8(header).ok());
        Self {
            request_id: request_id.and_then(RequestId::from_client).unwrap_or_else(RequestId::new),
            trace: trace.and_then(TraceContext::from_traceparent),
            begun: Arc::default(),
        }
    }

    /// Notes that onnxd records the request in this trace.
    pub fn begin_trace(&self, trace_id: u128) {
        // A request is recorded once.
        let _ = self.begun.set(trace_id);
    }

    /// Returns the trace of the caller, or the one that onnxd began.
    pub fn trace_id(&self) -> Option<u128> {
        self.trace.map(TraceContext::trace_id).or_else(|| self.begun.get().copied())
    }
}

/// Methods of HTTP that OpenTelemetry knows.
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Returns the name of an HTTP method in traces, metrics and logs. A client may invent methods, so all
/// that OpenTelemetry does not know have the same name.
pub fn method_name(method: &str) -> &'static str {
    METHODS.into_iter().find(|known| *known == method).unwrap_or("_OTHER")
}

/// Names one request. Printable ASCII, so it needs no escaping in a header. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Makes an id: 32 hexadecimal digits.
    #[expect(clippy::new_without_default, reason = "each one is different")]
    pub fn new() -> Self {
        Self(format!("{:032x}", new_trace_id()).into())
    }

    /// Returns the id that a client chose, if it is printable ASCII of at most 128 bytes.
    pub fn from_client(value: &[u8]) -> Option<Self> {
        let is_printable = value.iter().all(|byte| (b' '..=b'~').contains(byte));
        let is_valid = !value.is_empty() && value.len() <= REQUEST_ID_BYTES_MAX && is_printable;
        is_valid.then(|| str::from_utf8(value).ok()).flatten().map(|text| Self(text.into()))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns a number that is unlikely to have been returned before, in this process or another: a
/// keyed hash of a counter, with a key from the system. Not for secrets.
pub fn random() -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    KEY.hash_one(COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// Makes a trace id, which is never zero.
pub fn new_trace_id() -> u128 {
    (u128::from(random()) << 64) | u128::from(new_span_id())
}

/// Makes a span id, which is never zero.
pub fn new_span_id() -> u64 {
    random().max(1)
}

/// The trace that a request belongs to, and the caller's span in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceContext {
    /// Begins a trace, which is recorded if `sampled`.
    pub fn root(sampled: bool) -> Self {
        let flags = if sampled { SAMPLED } else { 0 };
        Self { trace_id: new_trace_id(), span_id: new_span_id(), flags }
    }

    /// Returns a new span in the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span_id: new_span_id(), ..self }
    }

    /// Returns the same span, marked as recorded.
    #[must_use]
    pub fn recorded(self) -> Self {
        Self { flags: self.flags | SAMPLED, ..self }
    }

    /// Parses a `traceparent` header. Returns `None` for a malformed one: the specification
    /// requires starting a new trace instead of refusing the request.
    pub fn from_traceparent(header: &str) -> Option<Self> {
        let mut parts = header.trim().splitn(5, '-');
        let [version, trace, span, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
        let version = hex(version, 2)?;
        // Later versions may append fields; version 00 has none, and version ff is invalid.
        let is_known_length = version > 0 || header.trim().len() == TRACEPARENT_BYTES;
        let trace_id = hex(trace, 32).filter(|&id| id > 0)?;
        let span_id = u64::try_from(hex(span, 16)?).ok().filter(|&id| id > 0)?;
        // A receiver must not pass on flags that it does not know.
        let flags = u8::try_from(hex(flags, 2)?).ok()? & SAMPLED;
        (version < 0xff && is_known_length).then_some(Self { trace_id, span_id, flags })
    }

    /// Returns the identifier of the whole trace.
    pub fn trace_id(self) -> u128 {
        self.trace_id
    }

    /// Returns the identifier of the caller's span.
    pub fn span_id(self) -> u64 {
        self.span_id
    }

    /// Returns whether the caller records the trace.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Parses exactly `digits` lowercase hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_exact = text.len() == digits && text.bytes().all(is_digit);
    is_exact.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// Formats a version 00 `traceparent` header.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_round_trips() {
        let context = TraceContext::from_traceparent(EXAMPLE).unwrap();
        assert_eq!(context.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span_id(), 0x00f0_67aa_0ba9_02b7);
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), EXAMPLE);
        let later = EXAMPLE.replacen("00", "01", 1) + "-what-comes-later";
        assert_eq!(TraceContext::from_traceparent(&later), Some(context));
    }

    #[test]
    fn unknown_flags_are_not_passed_on() {
        for (given, sampled) in [("00", false), ("01", true), ("02", false), ("ff", true)] {
            let header = EXAMPLE.replace("-01", &format!("-{given}"));
            let context = TraceContext::from_traceparent(&header).unwrap();
            assert_eq!(context.is_sampled(), sampled, "{given}");
            let flags = if sampled { "-01" } else { "-00" };
            assert!(context.to_string().ends_with(flags), "{context}");
        }
    }

    #[test]
    fn a_child_stays_in_its_trace_with_another_span() {
        let root = TraceContext::root(true);
        let child = root.child();
        assert_eq!((child.trace_id(), child.is_sampled()), (root.trace_id(), true));
        assert_ne!(child.span_id(), root.span_id());
        assert_eq!(TraceContext::from_traceparent(&child.to_string()), Some(child));
        assert!(!TraceContext::root(false).is_sampled());
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| new_span_id()).collect();
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn a_printable_request_id_is_kept_and_any_other_is_replaced() {
        let longest = "x".repeat(REQUEST_ID_BYTES_MAX);
        for kept in ["a", "req 1/2 \"b\"", &longest] {
            let identity = RequestIdentity::new(Some(kept.as_bytes()), None);
            assert_eq!(identity.request_id.as_str(), kept);
        }
        let long = longest.clone() + "x";
        for replaced in ["", "a\nb", "a\tb", "ü", "\u{1b}[2J", &long] {
            let identity = RequestIdentity::new(Some(replaced.as_bytes()), None);
            assert_ne!(identity.request_id.as_str(), replaced);
            assert_eq!(identity.request_id.as_str().len(), 32);
        }
        let [first, second] = [(); 2].map(|()| RequestIdentity::new(None, None));
        assert_ne!(first.request_id, second.request_id);
    }

    #[test]
    fn invented_methods_have_one_name() {
        assert_eq!(method_name("POST"), "POST");
        for invented in ["", "post", "GETT", "SECRET"] {
            assert_eq!(method_name(invented), "_OTHER", "{invented}");
        }
    }

    #[test]
    fn a_trace_that_begins_here_is_known_to_all_clones() {
        let begun = RequestIdentity::new(None, None);
        assert_eq!(begun.trace_id(), None);
        begun.clone().begin_trace(7);
        assert_eq!(begun.trace_id(), Some(7));
        let continued = RequestIdentity::new(None, Some(EXAMPLE.as_bytes()));
        continued.begin_trace(7);
        assert_eq!(continued.trace_id(), Some(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736));
    }

    #[test]
    fn the_identity_has_the_trace_of_a_valid_caller_only() {
        let trace = |header: &[u8]| RequestIdentity::new(None, Some(header)).trace;
        assert_eq!(trace(EXAMPLE.as_bytes()), TraceContext::from_traceparent(EXAMPLE));
        assert_eq!(trace(b"00-\xff"), None);
    }

    #[test]
    fn a_malformed_traceparent_is_ignored() {
        for malformed in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::from_traceparent(malformed), None, "{malformed}");
        }
    }
}
