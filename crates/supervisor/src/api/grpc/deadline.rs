//! How long a call may take: until the deadline that gRPC itself carries, and each request in it as
//! long as `x-request-timeout-ms` says.

use std::time::Duration;

use axum::http::HeaderMap;
use onnxd_engine::RequestContext;
use tokio::time::Instant;
use tonic::Status;

use crate::api::request;

const HEADER: &str = "grpc-timeout";
/// Longer than anybody waits.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// The end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// Of a call with these headers that has just begun.
    ///
    /// # Errors
    /// It is not what gRPC says it is.
    pub(super) fn new(headers: &HeaderMap) -> Result<Self, Status> {
        let Some(value) = headers.get(HEADER) else { return Ok(Self(None)) };
        let timeout = value.to_str().ok().and_then(parse).ok_or_else(|| {
            let message = format!("{HEADER} is not up to 8 digits and a unit of time");
            Status::invalid_argument(message)
        })?;
        Ok(Self(Some(Instant::now() + timeout.min(TIMEOUT_MAX))))
    }

    /// The context of a request with these headers, which begins now in this call.
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

    /// Whether it has come.
    pub(super) fn is_past(self) -> bool {
        self.0.is_some_and(|end| end <= Instant::now())
    }

    /// Returns when it has come.
    pub(super) async fn passed(self) {
        match self.0 {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    }
}

/// `TimeoutValue TimeoutUnit`, as gRPC over HTTP/2 has it.
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
    fn timeouts_are_read_as_grpc_writes_them() {
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
        fn no_text_is_too_odd_to_be_read(text in ".{0,12}") {
            let _ = parse(&text);
        }
    }
}
