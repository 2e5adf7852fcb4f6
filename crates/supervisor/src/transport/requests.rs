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

use crate::transport::error::{Shapes, TransportError, shape_of};

/// Wraps routes with the checks; `shapes` renders the refusals.
pub(crate) fn checked(router: Router, shapes: &Arc<dyn Shapes>) -> Router {
    router.layer(middleware::from_fn_with_state(Arc::clone(shapes), check))
}

/// RFC 9112 asks for 400 if an HTTP/1.1 request has no Host.
async fn check(
    State(shapes): State<Arc<dyn Shapes>>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    if request.version() == Version::HTTP_11 && !request.headers().contains_key(HOST) {
        return shape_of(&shapes, &request).render(TransportError::NoHost);
    }
    next.run(request).await
}

/// Removes a slash from the end of the path: `/embed/` is the route `/embed`.
pub(crate) fn without_trailing_slash(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri();
    let path = uri.path().trim_end_matches('/');
    if path.is_empty() || path.len() == uri.path().len() {
        return request;
    }
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
        for (given, expected) in [
            ("/embed/", "/embed"),
            ("/v2/models/m//?a=/", "/v2/models/m?a=/"),
            ("/embed", "/embed"),
            ("/", "/"),
            ("//", "//"),
            ("http://host/embed/?x", "http://host/embed?x"),
        ] {
            let request = Request::builder().uri(given).body(Body::empty()).unwrap();
            assert_eq!(without_trailing_slash(request).uri().to_string(), expected);
        }
    }
}
