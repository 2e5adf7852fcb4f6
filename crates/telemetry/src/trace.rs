//! The W3C Trace Context of a request. Pure; callers parse it from their protocol's header, and the
//! engine carries it.

use std::fmt;

/// Length of a version 00 `traceparent`: version, trace, span and flags with three dashes.
const TRACEPARENT_BYTES: usize = 55;
/// Flag that asks to record the trace.
const SAMPLED: u8 = 1;

/// The trace that a request belongs to, and the caller's span in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceContext {
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
        let flags = u8::try_from(hex(flags, 2)?).ok()?;
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
