//! Checks of requests that no handler repeats, and forms that mean the same. Used by the
//! [`listener`](crate::transport::listener).

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Request, Response, Uri, Version, header::HOST, uri::PathAndQuery},
    middleware::{self, Next},
};

use onnxd_telemetry::metrics::{MalformedReason, Metrics};

use crate::transport::{
    access,
    error::{Rewrite, Shapes, TransportError, shape_of},
    malformed,
};

/// Wraps routes with the checks; `shapes` renders the refusals.
pub(crate) fn checked(router: Router, shapes: &Arc<dyn Shapes>, metrics: &Arc<Metrics>) -> Router {
    let state = (Arc::clone(shapes), Arc::clone(metrics));
    router.layer(middleware::from_fn_with_state(state, check))
}

async fn check(
    State((shapes, metrics)): State<(Arc<dyn Shapes>, Arc<Metrics>)>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let Err(wrong) = check_host(&request) else { return next.run(request).await };
    let error = TransportError::Host(wrong);
    malformed::refused(MalformedReason::Invalid, &error, access::peer(&request), &metrics);
    shape_of(&shapes, &request).render(error)
}

/// Checks that a request names one host (RFC 9112, section 3.2, and RFC 9113, section 8.3.1). An
/// empty one is refused: each `http` and `https` URI has a host. HTTP/1.0 needs none.
fn check_host(request: &Request<Body>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("more than one Host header");
    }
    let Some(host) = host else {
        let is_missing = request.version() == Version::HTTP_11;
        return if is_missing { Err("the header Host is missing") } else { Ok(()) };
    };
    if !is_host(host.as_bytes()) {
        return Err("the header Host is not HOST or HOST:PORT");
    }
    match request.uri().authority() {
        // Over HTTP/1.1 the target wins, and over HTTP/2 both must agree.
        Some(authority) if request.version() == Version::HTTP_2 => {
            let is_same = authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes());
            if is_same { Ok(()) } else { Err("the Host header and :authority differ") }
        }
        _ => Ok(()),
    }
}

/// Returns whether text is a host with or without a port (RFC 3986, section 3.2).
fn is_host(text: &[u8]) -> bool {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte);
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            let (host, port) = rest.split_at(end);
            if !host.iter().all(|byte| is_name(byte) || *byte == b':') {
                return false;
            }
            (host, &port[1..])
        }
        _ => {
            let end = text.iter().position(|&byte| byte == b':').unwrap_or(text.len());
            let (host, port) = text.split_at(end);
            if !host.iter().all(is_name) {
                return false;
            }
            (host, port)
        }
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && is_port
}

/// Returns a request as the router expects it: without a slash at the end of the path (`/embed/` is the
/// route `/embed`), and rewritten.
pub(crate) fn normalized(mut request: Request<Body>, rewrite: Rewrite) -> Request<Body> {
    let uri = request.uri();
    let path = match uri.path().trim_end_matches('/') {
        "" => uri.path(),
        path => path,
    };
    let rewritten = rewrite(path);
    if rewritten.is_none() && path.len() == uri.path().len() {
        return request;
    }
    let path = rewritten.as_deref().unwrap_or(path);
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(format!("{path}{query}")).ok();
    // Cannot fail: the parts are those of a URI.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_at_the_end_is_removed_and_the_query_stays() {
        let rewrite: Rewrite = |path| (path == "/a/b").then(|| "/a%2Fb".to_owned());
        for (given, expected) in [
            ("/embed/", "/embed"),
            ("/v2/models/m//?a=/", "/v2/models/m?a=/"),
            ("/embed", "/embed"),
            ("/", "/"),
            ("//", "//"),
            ("http://host/embed/?x", "http://host/embed?x"),
            ("/a/b/?x=/", "/a%2Fb?x=/"),
            ("/a/b", "/a%2Fb"),
        ] {
            let request = Request::builder().uri(given).body(Body::empty()).unwrap();
            assert_eq!(normalized(request, rewrite).uri().to_string(), expected);
        }
    }

    #[test]
    fn a_request_names_one_host() {
        let check = |version, target: &str, hosts: &[&str]| {
            let mut request = Request::builder().version(version).uri(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            check_host(&request.body(Body::empty()).unwrap()).is_ok()
        };
        for host in ["a", "a.example:80", "127.0.0.1:1", "[::1]", "[::1]:80", "a:", "a_b-c"] {
            assert!(check(Version::HTTP_11, "/", &[host]), "{host}");
        }
        for host in
            ["", "a b", "a/b", "me@a", "a:b", "a:1:2", ":80", "[::1", "[]", "[::1]x", "a,b c"]
        {
            assert!(!check(Version::HTTP_11, "/", &[host]), "{host}");
            assert!(!check(Version::HTTP_10, "/", &[host]), "{host}");
        }
        assert!(!check(Version::HTTP_11, "/", &[]));
        assert!(!check(Version::HTTP_11, "http://a/", &[]));
        assert!(!check(Version::HTTP_11, "/", &["a", "a"]));
        assert!(check(Version::HTTP_10, "/", &[]));
        // A proxy's target wins over its header.
        assert!(check(Version::HTTP_11, "http://a/", &["b"]));
        assert!(check(Version::HTTP_2, "http://a/", &[]));
        assert!(check(Version::HTTP_2, "http://a:80/", &["A:80"]));
        assert!(!check(Version::HTTP_2, "http://a/", &["b"]));
    }
}
