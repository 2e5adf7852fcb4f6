//! A panic in a handler is a fault of ours: that request is answered 500, and everything else goes
//! on. Around all routes of HTTP and all services of gRPC. The hook of [`onnxd_telemetry::stderr`] has
//! logged it by then.

use std::panic::AssertUnwindSafe;

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
    middleware::{self, Next},
};
use futures_util::FutureExt;

use crate::api::error::{ApiError, Contract, Kind};

/// The routes, whose panics are answered.
pub(crate) fn caught(router: Router) -> Router {
    router.layer(middleware::from_fn(catch))
}

async fn catch(request: Request<Body>, next: Next) -> Response<Body> {
    let contract = Contract::of(request.uri().path());
    // What a handler shares with others is behind locks that outlive a panic, or atomic.
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        ApiError::new(Kind::Backend, "the server failed at this request")
            .with_status(StatusCode::INTERNAL_SERVER_ERROR)
            .into_response(contract)
    })
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn broken() -> &'static str {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn a_panic_is_answered_500_and_the_next_request_as_ever() {
        let routes = Router::new().route("/a", get(broken)).route("/b", get(|| async { "b" }));
        let router = caught(routes);
        for (path, status) in [("/a", 500), ("/b", 200), ("/a", 500)] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
        }
    }
}
