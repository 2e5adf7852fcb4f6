//! Combines all contracts into one router: maps paths to contracts and adds what all routes share.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    body::Body,
    extract::MatchedPath,
    http::{HeaderValue, Method, Response, StatusCode, Uri, header::ALLOW},
    middleware,
    response::IntoResponse,
    routing::{any, get},
};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    api::{
        app::App,
        cohere,
        contract::{Contract, Table},
        error::{Class, Fault},
        metrics,
        oip::rest::{self, health, repository},
        openai, openapi, qdrant, request_metrics, search, shared, tei,
    },
    transport::{error::Shapes, listener::Routes, panics},
};

/// All HTTP contracts. The first owns the paths that belong to no other.
static CONTRACTS: [&Contract; 7] = [
    &tei::CONTRACT,
    &shared::CONTRACT,
    &openai::CONTRACT,
    &cohere::CONTRACT,
    &rest::CONTRACT,
    &search::CONTRACT,
    &qdrant::CONTRACT,
];

/// Maps each route to its contract.
static TABLE: LazyLock<Arc<Table>> = LazyLock::new(|| Arc::new(Table::new(&CONTRACTS)));

/// Routes that the OpenAPI document does not describe.
const UNDESCRIBED: [&str; 3] = ["/metrics", openapi::PATH, repository::PATH];

/// Returns the templates of all public routes, used as `route` labels of metrics.
pub(crate) fn templates() -> Vec<String> {
    let described = described().into_openapi().paths.paths.into_keys();
    described.chain(UNDESCRIBED.map(str::to_owned)).collect()
}

/// Returns the error format of each route, for errors raised before its handler runs.
pub(crate) fn shapes() -> Arc<dyn Shapes> {
    Arc::clone(&*TABLE) as Arc<dyn Shapes>
}

/// Returns all public routes.
pub(crate) fn routes(app: App) -> Routes {
    Routes { router: router(app), shapes: shapes() }
}

fn router(app: App) -> Router {
    let (router, document) = described().split_for_parts();
    let router = router
        .merge(openapi::route(&document))
        .route("/metrics", get(metrics::metrics))
        .route(repository::PATH, any(repository::denied))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(app.clone());
    recorded(router, app)
}

/// Records all requests. A panic is caught inside, so that it is counted and traced as 500.
fn recorded(router: Router, app: App) -> Router {
    let metrics_layer = middleware::from_fn_with_state(app, request_metrics::record);
    panics::caught(router, shapes()).layer(metrics_layer)
}

/// Returns only the health routes, for listeners that serve something else.
pub(crate) fn health(app: App) -> Router {
    Router::new()
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::ready))
        .with_state(app)
}

/// Returns the routes of the OpenAPI document, with their descriptions.
pub(super) fn described() -> OpenApiRouter<App> {
    let all = OpenApiRouter::with_openapi(openapi::head());
    CONTRACTS.iter().fold(all, |all, contract| all.merge((contract.routes)()))
}

async fn not_found(method: Method, uri: Uri) -> Response<Body> {
    if method == Method::OPTIONS && uri.path() == "*" {
        return options();
    }
    let fault = Fault::new(Class::NoRoute, format!("unknown route {}", uri.path()));
    (TABLE.find(None, uri.path()).render)(fault)
}

/// Answers `OPTIONS *`, which asks what the server allows in general.
fn options() -> Response<Body> {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,HEAD,POST,OPTIONS"));
    response
}

/// Answers `OPTIONS`, and refuses other methods that a route does not have. axum adds the header `allow`.
async fn method_not_allowed(
    route: Option<MatchedPath>,
    uri: Uri,
    method: Method,
) -> Response<Body> {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let fault = Fault::new(Class::Method, format!("{method} is not allowed on {}", uri.path()));
    let template = route.as_ref().map(MatchedPath::as_str);
    (TABLE.find(template, uri.path()).render)(fault)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use tower::ServiceExt;

    use onnxd_telemetry::metrics::Metrics;

    use super::*;
    use crate::transport::error::TransportError;

    async fn body(response: Response<Body>) -> serde_json::Value {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Returns which contract rendered an error.
    fn shape(body: &serde_json::Value) -> &'static str {
        match body {
            body if body.get("error_type").is_some() => "tei",
            body if body["error"]["type"].is_string() => "openai",
            body if body.get("message").is_some() => "cohere",
            body if body["status"]["error"].is_string() => "qdrant",
            _ => "oip",
        }
    }

    /// Returns the contract that renders the error of a `TRACE` request, which no route allows.
    async fn refused(router: &Router, path: &str) -> &'static str {
        let request = Request::trace(path).body(Body::empty()).unwrap();
        shape(&body(router.clone().oneshot(request).await.unwrap()).await)
    }

    #[tokio::test]
    async fn errors_have_the_format_of_the_routes_contract() {
        let metrics = Arc::new(Metrics::new(&templates()));
        let router = router(App::without_models(&metrics, 1024));
        for contract in CONTRACTS {
            let own = shape(&body((contract.render)(Fault::new(Class::NoRoute, ""))).await);
            for path in (contract.routes)().into_openapi().paths.paths.into_keys() {
                // An error before routing and one after it have the same format.
                let early = shapes().shape(Some(&path), "/").render(TransportError::Unauthorized);
                assert_eq!(shape(&body(early).await), own, "{path}");
                assert_eq!(refused(&router, &path).await, own, "{path}");
            }
        }
        for (path, own) in [
            ("/v1/rerank", "cohere"),
            ("/v2/embed", "cohere"),
            ("/embeddings", "openai"),
            ("/v1/no-route", "openai"),
            ("/v2/no-route", "oip"),
            ("/v2", "oip"),
            ("/v1", "tei"),
            ("/v2x", "tei"),
            ("/collections/c/no-route", "qdrant"),
            ("/no-route", "tei"),
            ("/metrics", "tei"),
        ] {
            assert_eq!(refused(&router, path).await, own, "{path}");
        }
    }

    #[tokio::test]
    async fn a_panicking_handler_is_counted_as_500() {
        async fn broken() -> &'static str {
            panic!("on purpose")
        }
        let metrics = Arc::new(Metrics::new(&["/broken".to_owned()]));
        let app = App::without_models(&metrics, 1024);
        let router = recorded(Router::new().route("/broken", get(broken)), app);
        let request = Request::get("/broken").body(Body::empty()).unwrap();
        assert_eq!(router.oneshot(request).await.unwrap().status(), 500);
        let counted = metrics.routes.find(Some("/broken")).by_status();
        assert_eq!(counted.collect::<Vec<_>>(), [(200, 0), (500, 1)]);
    }

    #[tokio::test]
    async fn every_template_has_a_route_and_a_counter() {
        let metrics = Arc::new(Metrics::new(&templates()));
        let router = router(App::without_models(&metrics, 1024));
        for template in templates() {
            let template = template.as_str();
            let request = Request::trace(template).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            // The handler of this route rejects every method.
            let status = if template == repository::PATH { 403 } else { 405 };
            assert_eq!(response.status(), status, "{template}");
            let counted = metrics.routes.find(Some(template)).by_status();
            assert_eq!(counted.collect::<Vec<_>>(), [(200, 0), (status, 1)], "{template}");
        }
    }
}
