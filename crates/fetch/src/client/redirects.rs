//! Decides where a redirect may lead. Pure.

use http::StatusCode;
use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use url::Url;

use super::shown;

/// Maximum redirects of a request.
pub(crate) const MAX: usize = 10;

/// Returns whether a response redirects to its `Location`.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Returns the URL that a redirect from `from` leads to.
pub(super) fn follow(from: &Url, location: &str) -> Result<Url, FetchError> {
    let refuse = |kind: FetchErrorKind, reason: &str| {
        Err(kind.because(format!("redirect from {}: {reason}", shown(from))))
    };
    if location.is_empty() {
        return refuse(FetchErrorKind::Malformed, "no Location header");
    }
    let Ok(to) = from.join(location) else {
        return refuse(FetchErrorKind::Malformed, "invalid Location header");
    };
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") => {
            return refuse(FetchErrorKind::Forbidden, "https must not lead to http");
        }
        _ => return refuse(FetchErrorKind::Forbidden, "only http and https are followed"),
    }
    if !to.username().is_empty() || to.password().is_some() {
        return refuse(FetchErrorKind::Forbidden, "the target contains a user or password");
    }
    Ok(to)
}

/// Returns whether credentials for one URL may be sent to another.
pub(crate) fn is_same_server(a: &Url, b: &Url) -> bool {
    let server = |url: &Url| {
        let host = url.host_str().map(str::to_owned);
        (url.scheme().to_owned(), host, url.port_or_known_default())
    };
    server(a) == server(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn redirects_stay_as_safe_as_they_began() {
        let https = url("https://a/b/c?x=1");
        assert_eq!(follow(&https, "../d").unwrap(), url("https://a/d"));
        assert_eq!(follow(&https, "//other/x").unwrap(), url("https://other/x"));
        assert_eq!(follow(&url("http://a/"), "https://b/").unwrap(), url("https://b/"));
        for location in ["http://a/", "ftp://a/", "file:///etc/passwd", "https://u:p@a/"] {
            let error = follow(&https, location).unwrap_err();
            assert_eq!(error.kind, FetchErrorKind::Forbidden, "{location}");
            assert!(!error.message.contains("x=1"), "{error}");
        }
        for location in ["", "https://[::"] {
            assert_eq!(follow(&https, location).unwrap_err().kind, FetchErrorKind::Malformed);
        }
    }

    #[test]
    fn credentials_stay_with_scheme_host_and_port() {
        let home = url("https://a/x");
        assert!(is_same_server(&home, &url("https://a:443/y")));
        for other in ["http://a/x", "https://b/x", "https://a:8443/x", "https://a.b/x"] {
            assert!(!is_same_server(&home, &url(other)), "{other}");
        }
    }
}
