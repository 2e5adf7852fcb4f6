//! Which path is answered by whom, and what every route has in common: the limits of bodies, and
//! errors in the shape of the contract.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Response, StatusCode, Uri},
    middleware,
    routing::{any, get},
};
use onnxd_proto::domain::{Record, Task};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    admin::repository,
    api::{
        cohere,
        error::{ApiError, Contract, Kind},
        health,
        inference::{admitted, require_task},
        measure::measure,
        metrics,
        oip::rest::{infer, metadata},
        openai, openapi,
        tei::{embed, info, predict, rerank, root, tokens},
    },
};
use onnxd_engine::{
    dispatch::{gather::Dispatch, health::Health},
    models::{
        registry::{Model, Registry},
        update::Updater,
    },
};
use onnxd_telemetry::metrics::Metrics;

/// What handlers need.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub registry: Arc<Registry>,
    pub dispatch: Arc<Dispatch>,
    pub metrics: Arc<Metrics>,
    /// Loads models on first use.
    pub updater: Arc<Updater>,
    pub health: watch::Receiver<Health>,
    /// How many workers there are.
    pub workers: usize,
    pub limits: Limits,
    /// Kibibytes that large bodies may have at once; see [`App::pay`].
    pub bodies: Arc<Semaphore>,
}

/// Bytes of a body of tensors, or of an answer, that need not be paid for.
pub(crate) const UNPAID_BYTES_MAX: usize = 256 * 1024;
/// Kibibytes of all large bodies that are read or answered at once.
pub(crate) const BODIES_KIBIBYTES_MAX: usize = 512 * 1024;

/// What a request may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Inputs of one request in the words of text-embeddings-inference.
    pub client_batch: usize,
}

impl App {
    /// Room in memory for a body of so many bytes, if these are more than `unpaid_max`.
    ///
    /// # Errors
    /// 429 where other large bodies take all the room.
    pub(crate) fn pay(
        &self,
        bytes: usize,
        unpaid_max: usize,
    ) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        if bytes <= unpaid_max {
            return Ok(None);
        }
        let kibibytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let paid = Arc::clone(&self.bodies).try_acquire_many_owned(kibibytes);
        paid.map(Some).map_err(|_| {
            let message = "the server is overloaded: large bodies take all the room there is";
            let error = ApiError::new(Kind::Overloaded, message);
            ApiError { retry_after: Some(Duration::from_secs(1)), ..error }
        })
    }

    /// What the model serves, which must be for one of these tasks. It is loaded first if nobody
    /// has used it yet, within `timeout`, if that is asked for.
    ///
    /// # Errors
    /// 424 where it is for something else; 404 where it is unloaded, 503 where it cannot be
    /// loaded.
    pub(crate) async fn ready(
        &self,
        model: &Model,
        tasks: &[Task],
        timeout: Option<Duration>,
    ) -> Result<Arc<Record>, ApiError> {
        let _admitted = admitted(self, model, timeout).await?;
        require_task(model, tasks)
    }
}

/// What the repository API has, which is not here; see [`repository::elsewhere`].
const ELSEWHERE: &str = "/v2/repository/{*rest}";
/// Routes that the document does not describe.
const UNDESCRIBED: [&str; 3] = ["/metrics", openapi::PATH, ELSEWHERE];

/// The templates of all public routes, which metrics name them by.
pub(crate) fn templates() -> Vec<String> {
    let described = described().into_openapi().paths.paths.into_keys();
    described.chain(UNDESCRIBED.map(str::to_owned)).collect()
}

/// All public routes.
pub(crate) fn router(app: App) -> Router {
    let measure = middleware::from_fn_with_state(Arc::clone(&app.metrics), measure);
    let (router, document) = described().split_for_parts();
    router
        .merge(openapi::route(&document))
        .route("/metrics", get(metrics::metrics))
        .route(ELSEWHERE, any(repository::elsewhere))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(measure)
        .with_state(app)
}

/// Health alone, for listeners that serve something else.
pub(crate) fn health(app: App) -> Router {
    Router::new()
        .route("/v2/health/live", get(health::live))
        .route("/v2/health/ready", get(health::ready))
        .with_state(app)
}

/// The routes that the OpenAPI document describes, with what it says of them.
pub(super) fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(health::root, root::root))
        .routes(routes!(health::tei))
        .routes(routes!(health::ping))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(info::info))
        .routes(routes!(embed::embed))
        .routes(routes!(embed::embed_all))
        .routes(routes!(embed::similarity))
        .routes(routes!(predict::predict))
        .routes(routes!(rerank::rerank))
        .routes(routes!(tokens::tokenize))
        .routes(routes!(tokens::decode))
        .routes(routes!(openai::embeddings))
        .routes(routes!(openai::embeddings_short))
        .routes(routes!(openai::models))
        .routes(routes!(openai::model))
        .routes(routes!(cohere::rerank_v1))
        .routes(routes!(cohere::rerank_v2))
        .routes(routes!(cohere::embed_v1))
        .routes(routes!(cohere::embed_v2))
        .routes(routes!(metadata::server))
        .routes(routes!(metadata::models))
        .routes(routes!(metadata::all_statistics))
        .routes(routes!(metadata::model))
        .routes(routes!(metadata::model_version))
        .routes(routes!(metadata::ready))
        .routes(routes!(metadata::ready_version))
        .routes(routes!(metadata::config))
        .routes(routes!(metadata::config_version))
        .routes(routes!(metadata::statistics))
        .routes(routes!(metadata::statistics_version))
        .routes(routes!(infer::infer))
        .routes(routes!(infer::infer_version))
}

async fn not_found(uri: Uri) -> Response<Body> {
    let message = format!("there is no route {}", uri.path());
    ApiError::new(Kind::Validation, message)
        .with_status(StatusCode::NOT_FOUND)
        .into_response(Contract::of(uri.path()))
}

async fn method_not_allowed(uri: Uri, method: axum::http::Method) -> Response<Body> {
    let message = format!("{method} is not allowed on {}", uri.path());
    ApiError::new(Kind::Validation, message)
        .with_status(StatusCode::METHOD_NOT_ALLOWED)
        .into_response(Contract::of(uri.path()))
}

/// Turns a handler's result into a response in the shape of its contract.
pub(crate) async fn respond(
    contract: Contract,
    handler: impl Future<Output = Result<Response<Body>, ApiError>>,
) -> Response<Body> {
    handler.await.unwrap_or_else(|error| error.into_response(contract))
}

#[cfg(test)]
impl App {
    /// One that serves no model, with so many kibibytes of room for large bodies.
    pub(crate) fn of_no_model(metrics: &Arc<Metrics>, bodies_kibibytes: usize) -> Self {
        let (events, _) = tokio::sync::mpsc::channel(1);
        let limits =
            onnxd_engine::dispatch::gather::Limits { items: 1, timeout: Duration::from_secs(1) };
        let dispatch = Dispatch::new(events, Arc::clone(metrics), limits, Arc::default(), 0);
        let page = onnxd_proto::control_page::ControlPage::create().expect("a page can be had");
        let registry = Arc::new(Registry::new(&[], page, Arc::clone(metrics)));
        Self {
            updater: Arc::new(Updater::of_no_model(&registry, metrics)),
            registry,
            dispatch: Arc::new(dispatch),
            metrics: Arc::clone(metrics),
            health: watch::channel(Health::default()).1,
            workers: 0,
            limits: Limits { client_batch: 1 },
            bodies: Arc::new(Semaphore::new(bodies_kibibytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn every_template_has_a_route_and_is_counted_as_it() {
        let metrics = Arc::new(Metrics::new(&templates()));
        let router = router(App::of_no_model(&metrics, 1));
        for template in templates() {
            let template = template.as_str();
            let request = Request::trace(template).body(Body::empty()).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            // This one refuses every method by itself.
            let status = if template == ELSEWHERE { 403 } else { 405 };
            assert_eq!(response.status(), status, "{template}");
            let counted = metrics.routes.find(Some(template)).by_status();
            assert_eq!(counted.collect::<Vec<_>>(), [(200, 0), (status, 1)], "{template}");
        }
    }
}
