//! Counts and logs requests that are refused because they are not valid HTTP. No handler sees these.
//! Called by [`crate::transport::connection`], [`crate::transport::http2`] and
//! [`crate::transport::requests`].

use std::{
    error::Error,
    fmt,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use onnxd_telemetry::metrics::{MalformedReason, Metrics};

/// Lines per [`WINDOW`]: a scanner must not flood the log.
const LINES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

static LIMIT: LogLimit = LogLimit(Mutex::new(None));

/// Counts and logs the error of a connection if it was a request that could not be parsed. Returns
/// whether it was.
pub(super) fn report(error: &hyper::Error, peer: IpAddr, metrics: &Metrics) -> bool {
    let reason = match error {
        error if error.is_parse_too_large() => MalformedReason::TooLarge,
        error if error.is_parse() => MalformedReason::Invalid,
        _ => return false,
    };
    refused(reason, error, peer, metrics);
    true
}

/// Same, for HTTP/2: counts and logs an error of the whole connection if the client broke the protocol.
pub(super) fn report_http2(error: &hyper::Error, peer: IpAddr, metrics: &Metrics) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    let Some(cause) = cause.filter(|cause| cause.is_library() && cause.is_go_away()) else {
        return false;
    };
    refused(MalformedReason::Invalid, &format_args!("HTTP/2 {cause}"), peer, metrics);
    true
}

/// Counts and logs a request that was refused for `error`.
pub(super) fn refused(
    reason: MalformedReason,
    error: &dyn fmt::Display,
    peer: IpAddr,
    metrics: &Metrics,
) {
    metrics.requests_malformed_total.increment(reason);
    if let Some(suppressed) = LIMIT.admit(Instant::now()) {
        let client = peer.to_canonical();
        tracing::warn!(%client, %error, suppressed, "refused a malformed request");
    }
}

/// Limits the lines in a window of time.
struct LogLimit(Mutex<Option<Lines>>);

struct Lines {
    since: Instant,
    count: u32,
    suppressed: u64,
}

impl LogLimit {
    /// Returns how many lines were suppressed since the last one, if another may be written.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = lines.get_or_insert(Lines { since: now, count: 0, suppressed: 0 });
        if now.saturating_duration_since(lines.since) >= WINDOW {
            (lines.since, lines.count) = (now, 0);
        }
        if lines.count == LINES_MAX {
            lines.suppressed += 1;
            return None;
        }
        lines.count += 1;
        Some(std::mem::take(&mut lines.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_ten_lines_a_minute_and_the_rest_is_counted() {
        let (limit, start) = (LogLimit(Mutex::new(None)), Instant::now());
        let admitted = |after| limit.admit(start + Duration::from_secs(after));
        let lines: Vec<_> = (0..1000).filter_map(|_| admitted(59)).collect();
        assert_eq!(lines, [0; 10]);
        // The window began with the first line.
        assert_eq!(admitted(118), None);
        assert_eq!(admitted(119), Some(991));
        assert_eq!(admitted(119), Some(0));
    }
}
