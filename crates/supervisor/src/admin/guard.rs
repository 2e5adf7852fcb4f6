//! Authenticates admin requests over TCP. A web page could make a local browser send requests, so those
//! with an Origin, or with a Host other than a loopback name (DNS rebinding), are refused. All others
//! must present the token.

use std::net::IpAddr;

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::IntoResponse,
};
use serde_json::json;

use crate::{
    admin::calls::BODY_BYTES_MAX, api::error::axum_json, config::Token,
    transport::bodies::read_body_within,
};

/// Combines the routes of `admin`, which need the token, with those of `open`, which do not. Those that
/// verify signatures need neither the token nor a loopback name; merge them into the result.
pub(crate) fn guarded(admin: Router, token: Token, open: Router) -> Router {
    let admin = admin.layer(middleware::from_fn_with_state(token, require_token));
    admin.merge(open).layer(middleware::from_fn(require_loopback))
}

async fn require_loopback(request: Request<Body>, next: Next) -> Response<Body> {
    let headers = request.headers();
    if headers.contains_key(header::ORIGIN) {
        return refuse(
            StatusCode::FORBIDDEN,
            "requests with an Origin are refused: web pages may not administer this server",
        );
    }
    if !has_loopback_host(headers, request.uri().authority()) {
        return refuse(
            StatusCode::FORBIDDEN,
            "the Host header must be localhost or a loopback address",
        );
    }
    next.run(request).await
}

async fn require_token(
    State(token): State<Token>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    if !bearer(request.headers()).is_some_and(|presented| token.matches(presented)) {
        let mut response = refuse(
            StatusCode::UNAUTHORIZED,
            "missing or wrong token: send `Authorization: Bearer TOKEN` with the token of --admin-token-file",
        );
        let challenge = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        return response;
    }
    let (parts, body) = request.into_parts();
    match read_body_within(Request::new(body), BODY_BYTES_MAX).await {
        Ok(body) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Err(error) => {
            let mut response = refuse(error.error.status(), &error.to_string());
            // Part of the body may be unread.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            response
        }
    }
}

fn refuse(status: StatusCode, message: &str) -> Response<Body> {
    (status, axum_json(&json!({ "error": message }))).into_response()
}

/// Returns the token that a request presents.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Returns whether the request's host is a loopback name or address.
fn has_loopback_host(headers: &HeaderMap, target: Option<&Authority>) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = Authority::try_from(host.as_bytes()) else { return false };
    is_loopback(&host) && target.is_none_or(is_loopback)
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    async fn status(path: &str, headers: &[(&str, &str)]) -> u16 {
        let admin = Router::new().route("/admin", get(|| async { "admin" }));
        let open = Router::new().route("/open", get(|| async { "open" }));
        let router = guarded(admin, Token::new(TOKEN), open);
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        response.status().as_u16()
    }

    #[tokio::test]
    async fn admin_routes_require_the_token() {
        let here = ("host", "127.0.0.1:8081");
        for (path, authorization, expected) in [
            ("/admin", "Bearer 0123456789abcdef", 200),
            ("/admin", "bearer  0123456789abcdef", 200),
            ("/admin", "Bearer 0123456789abcdeF", 401),
            ("/admin", "Bearer 0123456789abcde", 401),
            ("/admin", "Basic 0123456789abcdef", 401),
            ("/admin", "", 401),
            ("/open", "", 200),
            ("/nowhere", "", 404),
        ] {
            let found = status(path, &[here, ("authorization", authorization)]).await;
            assert_eq!(found, expected, "{path} {authorization}");
        }
    }

    #[tokio::test]
    async fn requests_from_web_pages_are_refused_even_with_the_token() {
        let token = ("authorization", "Bearer 0123456789abcdef");
        for (host, expected) in [
            ("localhost:8081", 200),
            ("LOCALHOST", 200),
            ("127.1.2.3", 200),
            ("[::1]:8081", 200),
            ("attacker.example:8081", 403),
            ("localhost.attacker.example", 403),
            ("10.0.0.1", 403),
            ("", 403),
        ] {
            assert_eq!(status("/admin", &[token, ("host", host)]).await, expected, "{host}");
        }
        assert_eq!(status("/admin", &[token]).await, 403, "no host");
        let two = [token, ("host", "localhost"), ("host", "attacker.example")];
        assert_eq!(status("/admin", &two).await, 403);
        let page = [token, ("host", "localhost"), ("origin", "http://localhost")];
        assert_eq!(status("/admin", &page).await, 403);
        assert_eq!(status("/open", &page[1..]).await, 403);
        let proxied = [token, ("host", "localhost")];
        assert_eq!(status("http://attacker.example/admin", &proxied).await, 403);
    }
}
