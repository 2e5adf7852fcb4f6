//! A panic in a handler is a fault of ours: that request is answered 500, and everything else goes
//! on. Around all routes of HTTP and all services of gRPC. The hook of [`onnxd_telemetry::stderr`] has
//! logged it by then.

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

/// The routes, whose panics are answered in the words of `shapes`.
pub(crate) fn caught(router: Router, shapes: Arc<dyn Shapes>) -> Router {
    router.layer(middleware::from_fn_with_state(shapes, catch))
}

async fn catch(
    State(shapes): State<Arc<dyn Shapes>>,
    request: Request<Body>,
    next: Next,
) -> Response<Body> {
    let shape = shape_of(&shapes, &request);
    // What a handler shares with others is behind locks that outlive a panic, or atomic.
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answered.unwrap_or_else(|_| shape.render(TransportError::Panicked))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;
    use crate::transport::error::{Shape, only};

    /// Answers the status alone.
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
    async fn a_panic_is_answered_500_and_the_next_request_as_ever() {
        let routes = Router::new().route("/a", get(broken)).route("/b", get(|| async { "b" }));
        let router = caught(routes, only(&Status));
        for (path, status) in [("/a", 500), ("/b", 200), ("/a", 500)] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
        }
    }
}
