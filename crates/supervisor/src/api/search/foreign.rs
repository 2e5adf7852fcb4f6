//! Keeps pages of other sites from changing collections. A browser lets any page send a form or a plain
//! text to any server, also to one on the reader's machine, and asks the server first only about
//! other requests: those are subject to `--cors-allow-origin`.

use axum::{
    body::Body,
    extract::State,
    http::{Method, Request, Response, StatusCode, header},
    middleware::Next,
};

use crate::api::error::{Class, Fault};

/// Content types that a page may send anywhere (the *simple* requests of the Fetch standard).
const SIMPLE: [&str; 3] =
    ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];

/// Refuses what a browser sends without asking. `render` is the contract's.
pub(crate) async fn refuse(
    State(render): State<fn(Fault) -> Response<Body>>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    if !is_simple(&request) {
        return next.run(request).await;
    }
    let message = "a browser sent this request without asking the server first; set the header content-type: application/json";
    render(Fault::new(Class::Transport(StatusCode::UNSUPPORTED_MEDIA_TYPE), message))
}

/// Returns whether a browser sends this request on behalf of any page. Only browsers send `Origin`.
fn is_simple(request: &Request<Body>) -> bool {
    let headers = request.headers();
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let kind = given.and_then(|given| given.split(';').next()).map(str::trim);
    *request.method() == Method::POST
        && headers.contains_key(header::ORIGIN)
        && kind.is_none_or(|kind| SIMPLE.iter().any(|simple| simple.eq_ignore_ascii_case(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_texts_of_pages_are_recognized() {
        let case = |method: &str, origin: bool, kind: Option<&str>| {
            let mut request = Request::builder().method(method);
            if origin {
                request = request.header("origin", "https://example.com");
            }
            if let Some(kind) = kind {
                request = request.header("content-type", kind);
            }
            is_simple(&request.body(Body::empty()).unwrap())
        };
        assert!(case("POST", true, Some("text/plain;charset=UTF-8")));
        assert!(case("POST", true, Some("Multipart/Form-Data; boundary=a")));
        // A page may leave it out.
        assert!(case("POST", true, None));
        assert!(!case("POST", true, Some("application/json")));
        assert!(!case("POST", true, Some("application/x-ndjson")));
        // As `curl -d` does.
        assert!(!case("POST", false, Some("application/x-www-form-urlencoded")));
        assert!(!case("GET", true, None));
        assert!(!case("DELETE", true, None));
    }
}
