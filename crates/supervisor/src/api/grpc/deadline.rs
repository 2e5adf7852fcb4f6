//! Deadlines of calls: `grpc-timeout` bounds the call, `x-request-timeout-ms` each request in it.

use std::time::Duration;

use axum::http::HeaderMap;
use onnxd_engine::RequestContext;
use tokio::time::Instant;
use tonic::Status;

use crate::api::request;

const HEADER: &str = "grpc-timeout";
/// Longer timeouts are cut to this.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// When a call must end, if ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// Returns the deadline of a call that begins now and has these headers.
    ///
    /// # Errors
    /// `grpc-timeout` is malformed.
    pub(super) fn new(headers: &HeaderMap) -> Result<Self, Status> {
        let Some(value) = headers.get(HEADER) else { return Ok(Self(None)) };
        let timeout = value.to_str().ok().and_then(parse).ok_or_else(|| {
            let message = format!(
                "invalid {HEADER}: expected up to 8 digits and a unit (H, M, S, m, u or n)"
            );
            Status::invalid_argument(message)
        })?;
        Ok(Self(Some(Instant::now() + timeout.min(TIMEOUT_MAX))))
    }

    /// Returns the context of a request that begins now in this call and has these headers.
    ///
    /// # Errors
    /// See [`request::context`].
    pub(super) fn context(self, headers: &HeaderMap) -> Result<RequestContext, Status> {
        let context =
            request::context(headers).map_err(|fault| Status::invalid_argument(fault.message))?;
        Ok(match self.0 {
            Some(end) => context.within(end.saturating_duration_since(Instant::now())),
            None => context,
        })
    }

    /// Returns whether the deadline has passed.
    pub(super) fn is_past(self) -> bool {
        self.0.is_some_and(|end| end <= Instant::now())
    }

    /// Completes when the deadline has passed.
    pub(super) async fn passed(self) {
        match self.0 {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    }
}

/// Parses `TimeoutValue TimeoutUnit` as gRPC over HTTP/2 defines it.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timeouts_parse_as_grpc_defines_them() {
        for (text, timeout) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("5n", Some(Duration::from_nanos(5))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000n", None),
            ("+1S", None),
            ("1", None),
            ("S", None),
            ("", None),
            ("1s", None),
            ("1.5S", None),
        ] {
            assert_eq!(parse(text), timeout, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,12}") {
            let _ = parse(&text);
        }
    }
}
