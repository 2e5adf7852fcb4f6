//! Counts and logs requests that are refused because they are not valid HTTP. No handler sees these.
//! Called by [`crate::transport::connection`], [`crate::transport::http2`] and
//! [`crate::transport::requests`].

use std::{error::Error, fmt, io, net::IpAddr};

use onnxd_telemetry::{
    log_limit::LogLimit,
    metrics::{MalformedReason, Metrics},
};

/// A scanner must not flood the log.
static LIMIT: LogLimit = LogLimit::new();

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

/// Counts and logs an HTTP/2 connection error if the client broke the protocol. Returns whether it
/// did.
pub(super) fn report_http2(error: &hyper::Error, peer: IpAddr, metrics: &Metrics) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    let Some(cause) = cause.filter(|cause| cause.is_library() && cause.is_go_away()) else {
        return false;
    };
    refused(MalformedReason::Invalid, &format_args!("HTTP/2 {cause}"), peer, metrics);
    true
}

/// Counts and logs a TLS handshake that failed. One that the client broke off is not malformed.
pub(super) fn report_tls(error: &io::Error, peer: IpAddr, metrics: &Metrics) {
    if error.kind() == io::ErrorKind::InvalidData {
        let error = format_args!("TLS handshake: {error}");
        refused(MalformedReason::Invalid, &error, peer, metrics);
    } else {
        tracing::debug!(%error, "TLS handshake failed");
    }
}

/// Counts and logs a request that was refused for `error`.
pub(super) fn refused(
    reason: MalformedReason,
    error: &dyn fmt::Display,
    peer: IpAddr,
    metrics: &Metrics,
) {
    metrics.requests_malformed_total.increment(reason);
    if let Some(suppressed) = LIMIT.admit() {
        let client = peer.to_canonical();
        tracing::warn!(%client, %error, suppressed, "refused a malformed request");
    }
}
