//! CORS: which web pages a browser lets call this server. Owns what an origin looks like; the
//! protocol is tower-http's.

use std::str::FromStr;

use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// What pages may read of a response beyond what browsers always show.
const EXPOSED: [HeaderName; 7] = [
    HeaderName::from_static("x-model-name"),
    HeaderName::from_static("x-model-generation"),
    HeaderName::from_static("x-model-version"),
    HeaderName::from_static("server-timing"),
    header::RETRY_AFTER,
    HeaderName::from_static("retry-after-ms"),
    HeaderName::from_static("inference-header-content-length"),
];

/// Whose pages may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Everybody's: `*`.
    Any,
    /// An origin as browsers write it.
    One(HeaderValue),
}

/// What is no origin.
#[derive(Debug, thiserror::Error)]
#[error("an origin is *, or SCHEME://HOST or SCHEME://HOST:PORT without a path")]
pub(crate) struct OriginError;

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        // Browsers write it in lower case, and they are who it is compared with.
        let text = text.to_ascii_lowercase();
        let uri: Uri = text.parse().map_err(|_| OriginError)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(OriginError);
        };
        // Nothing before the host and nothing after the port.
        let bare = text == format!("{scheme}://{authority}") && !authority.as_str().contains('@');
        let port = authority.as_str().len() == authority.host().len() || authority.port().is_some();
        // A part that stands for any is no browser's, and would silently allow nobody.
        if !bare || !port || authority.host().is_empty() || authority.host().contains('*') {
            return Err(OriginError);
        }
        // Nor do they write the port that goes without saying.
        let short = match (scheme, authority.port_u16()) {
            ("http", Some(80)) | ("https", Some(443)) => format!("{scheme}://{}", authority.host()),
            _ => text,
        };
        HeaderValue::from_str(&short).map(Self::One).map_err(|_| OriginError)
    }
}

/// What answers preflights, and adds to each response what browsers want to see.
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
        .allow_methods([Method::GET, Method::POST])
        // Not `*`: by the Fetch standard that leaves out `authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_write_them_and_nothing_else_is() {
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
