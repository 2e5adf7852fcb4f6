//! Answers a request whose handler panics with 500. Wraps all HTTP routes and gRPC services. The panic hook of
//! [`onnxd_telemetry::stderr`] logs the panic.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Request, Response},
    middleware::{self, Next},
};
use futures_util::FutureExt;

use crate::transport::error::{Shapes, TransportError, shape_of};

/// Wraps routes; `shapes` renders the responses to panics.
pub(crate) fn caught(router: Router, shapes: Arc<dyn Shapes>) -> Router {
    router.layer(middleware::from_fn_with_state(shapes, catch))
}

async fn catch(
    State(shapes): State<Arc<dyn Shapes>>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let shape = shape_of(&shapes, &request);
    // State shared by handlers is atomic, or behind locks that tolerate a panic.
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answered.unwrap_or_else(|_| shape.render(TransportError::Panicked))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;
    use crate::transport::error::{Shape, only};

    /// Renders only the status.
    struct Status;

    impl Shape for Status {
        fn render(&self, error: TransportError) -> Response<Body> {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = error.status();
            response
        }
    }

    async fn broken() -> &'static str {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn panic_is_answered_500_and_the_next_request_succeeds() {
        let routes = Router::new().route("/a", get(broken)).route("/b", get(|| async { "b" }));
        let router = caught(routes, only(&Status));
        for (path, status) in [("/a", 500), ("/b", 200), ("/a", 500)] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
        }
    }
}
