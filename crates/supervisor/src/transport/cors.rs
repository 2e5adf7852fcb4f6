//! CORS: parses allowed origins and configures tower-http.

use std::str::FromStr;

use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::transport::access;

/// Response headers that pages may read besides those that browsers always expose.
const EXPOSED: [HeaderName; 8] = [
    HeaderName::from_static("x-model-name"),
    HeaderName::from_static("x-model-generation"),
    HeaderName::from_static("x-model-version"),
    access::REQUEST_ID,
    HeaderName::from_static("server-timing"),
    header::RETRY_AFTER,
    HeaderName::from_static("retry-after-ms"),
    HeaderName::from_static("inference-header-content-length"),
];

/// An origin that may send requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Any origin: `*`.
    Any,
    /// An origin as browsers send it.
    One(HeaderValue),
}

/// An invalid origin.
#[derive(Debug, thiserror::Error)]
#[error(
    "expected *, SCHEME://HOST or SCHEME://HOST:PORT without a path, for example https://example.com"
)]
pub(crate) struct OriginError;

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        // Browsers send origins in lower case.
        let text = text.to_ascii_lowercase();
        let uri: Uri = text.parse().map_err(|_| OriginError)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(OriginError);
        };
        // No user before the host and nothing after the port.
        let bare = text == format!("{scheme}://{authority}") && !authority.as_str().contains('@');
        let port = authority.as_str().len() == authority.host().len() || authority.port().is_some();
        // A pattern such as *.example.com would match no origin, without an error.
        if !bare || !port || authority.host().is_empty() || authority.host().contains('*') {
            return Err(OriginError);
        }
        // Browsers omit the default port.
        let short = match (scheme, authority.port_u16()) {
            ("http", Some(80)) | ("https", Some(443)) => format!("{scheme}://{}", authority.host()),
            _ => text,
        };
        HeaderValue::from_str(&short).map(Self::One).map_err(|_| OriginError)
    }
}

/// Returns the layer that answers preflights and adds CORS headers to responses.
pub(crate) fn layer(origins: &[Origin]) -> CorsLayer {
    let one = |origin: &Origin| match origin {
        Origin::Any => None,
        Origin::One(origin) => Some(origin.clone()),
    };
    let allowed = match origins.iter().map(one).collect::<Option<Vec<_>>>() {
        Some(origins) => AllowOrigin::list(origins),
        None => AllowOrigin::any(),
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        // Not `*`, which excludes `authorization` (Fetch standard).
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_normalized_as_browsers_send_them() {
        for (text, origin) in [
            ("https://example.com", "https://example.com"),
            (" https://Example.COM ", "https://example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:443", "http://a.example:443"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            let expected = Origin::One(HeaderValue::from_static(origin));
            assert_eq!(text.parse::<Origin>().unwrap(), expected, "{text}");
        }
        assert_eq!("*".parse::<Origin>().unwrap(), Origin::Any);
        for text in [
            "",
            "example.com",
            "null",
            "https://",
            "https://example.com/",
            "https://example.com/path",
            "https://example.com?x",
            "https://me@example.com",
            "https://example.com:",
            "https://example.com:port",
            "https://exa mple.com",
            "https://*.example.com",
            "https://bücher.example",
            "/path",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
