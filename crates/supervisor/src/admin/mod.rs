//! Serves the admin interface over a Unix socket and, if configured, over TCP. Its types are in
//! [`onnxd_admin::api`]. Started by `serve`.
//!
//! - [`socket`]: the Unix socket.
//! - [`guard`]: authentication over TCP.
//! - [`calls`]: parses calls.
//! - [`responses`]: documents, refusals with their HTTP status, and streams of steps.
//! - [`status`]: the document behind `onnxd status`.
//! - [`log`]: how the server logs.
//! - [`webhook`]: notifications that a source changed.
//! - [`repository`]: Triton's repository API, on the same listeners.

mod calls;
mod guard;
mod log;
pub(crate) mod repository;
mod responses;
mod socket;
mod status;
pub(crate) mod webhook;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, Response, StatusCode, Uri},
    response::IntoResponse,
    routing::{get, post},
};
use onnxd_admin::api::{
    Cancelled, LOG_PATH, Load, Refusal, RefusalKind, RollbackCall, STATUS_PATH, UpdateCall, Verb,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use self::{
    calls::{ModelPath, model_of, read},
    responses::{Message, Refused, STEPS_MAX, document, respond},
};
pub(crate) use crate::admin::{
    guard::guarded,
    socket::{AdminSocket, CONNECTIONS_MAX, remove_successor_socket, take_over_name},
};
use crate::config::AllowedSources;
use onnxd_engine::{
    Engine,
    dispatch::Event,
    models::{
        machine::events::{Job, Target},
        registry::{Model, Registry},
        requester::Requester,
        store::Store,
        update::{Updater, source},
        watch::Watches,
    },
};
use onnxd_proto::domain::SourceUri;
use onnxd_telemetry::metrics::Metrics;

/// Maximum concurrent updates, rollbacks and unloads, over all models. Further ones are refused.
const CALLS_MAX: usize = 768;

/// State shared by the admin handlers.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// Says which models no worker can load, and whether the server stops soon.
    pub engine: Arc<Engine>,
    pub registry: Arc<Registry>,
    pub updater: Arc<Updater>,
    pub store: Arc<Store>,
    pub events: mpsc::Sender<Event>,
    pub metrics: Arc<Metrics>,
    /// Permits for updates, rollbacks and unloads.
    pub calls: Arc<Semaphore>,
    /// The watched sources.
    pub watches: Arc<Watches>,
    /// Sources on other servers that callers may name.
    pub allowed_sources: AllowedSources,
    /// Who calls: somebody on this machine, or over TCP.
    pub requester: Requester,
}

impl Admin {
    /// Returns a semaphore with a permit for each call that may be in progress.
    pub(crate) fn calls() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(CALLS_MAX))
    }

    /// Returns the model with this name.
    ///
    /// # Errors
    /// No such model is served.
    pub(super) fn find(&self, model: &str) -> Result<Arc<Model>, Refusal> {
        self.registry.find(Some(model)).cloned().ok_or_else(|| {
            RefusalKind::NotFound.because(format!("the model {model:?} is not served"))
        })
    }

    /// Parses the source that a call names.
    ///
    /// # Errors
    /// It is no source, or `--allow-source` does not allow it.
    pub(super) fn source(&self, uri: &str) -> Result<SourceUri, Refusal> {
        let uri = source(uri)?;
        if !self.allowed_sources.allow(&uri) {
            let message = format!("{uri}: no pattern of --allow-source allows this source");
            return Err(RefusalKind::Forbidden.because(message));
        }
        Ok(uri)
    }

    /// Returns a permit for one call.
    ///
    /// # Errors
    /// All permits are in use.
    pub(super) fn permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.calls).try_acquire_owned().map_err(|_| {
            RefusalKind::Busy
                .because(format!("{CALLS_MAX} updates are already in progress; retry later"))
        })
    }
}

/// Returns the routes of the admin interface and the repository API.
pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route(STATUS_PATH, get(status::status))
        .route(LOG_PATH, get(log::show).post(log::change))
        .route(&Verb::Update.path("{model}"), post(update))
        .route(&Verb::Rollback.path("{model}"), post(rollback))
        .route(&Verb::Unload.path("{model}"), post(unload))
        .route(&Verb::Cancel.path("{model}"), post(cancel))
        .merge(repository::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(admin)
}

async fn no_route(uri: Uri) -> Response<Body> {
    let refusal = RefusalKind::NotFound.because(format!("unknown route {}", uri.path()));
    refusal_at(&uri, StatusCode::NOT_FOUND, refusal)
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response<Body> {
    let message = format!("{method} is not allowed on {}", uri.path());
    refusal_at(&uri, StatusCode::METHOD_NOT_ALLOWED, RefusalKind::Malformed.because(message))
}

/// Renders a refusal in the format of the API that owns the path. Triton's clients expect a string.
fn refusal_at(uri: &Uri, status: StatusCode, refusal: Refusal) -> Response<Body> {
    if uri.path().starts_with(repository::NAMESPACE) {
        return repository::failed(status, &refusal.message);
    }
    let mut response = Refused(refusal).into_response();
    *response.status_mut() = status;
    response
}

async fn update(
    State(admin): State<Admin>,
    path: ModelPath,
    request: Request,
) -> Result<Response<Body>, Refused> {
    let model = model_of(path)?;
    let UpdateCall { from, load, force, allow_dimension_change, reuse_index } =
        read(request).await?;
    let malformed = |refusal: Refusal| match refusal.kind {
        RefusalKind::Forbidden => refusal,
        _ => RefusalKind::Malformed.because(refusal.message),
    };
    let from = from.map(|from| admin.source(&from)).transpose().map_err(malformed)?;
    let (target, requester) = (Target::Source(from), admin.requester);
    let seen = None;
    let job = Job { target, load, force, allow_dimension_change, reuse_index, requester, seen };
    run(&admin, &model, job).await
}

async fn rollback(
    State(admin): State<Admin>,
    path: ModelPath,
    request: Request,
) -> Result<Response<Body>, Refused> {
    let model = model_of(path)?;
    let RollbackCall { to } = read(request).await?;
    // A rollback skips the checks: this version has served before.
    let target = Target::Generation(to);
    run(&admin, &model, Job::unconditional(target, Load::Ahead)).await
}

async fn unload(State(admin): State<Admin>, path: ModelPath) -> Result<Response<Body>, Refused> {
    let model = admin.find(&model_of(path)?)?;
    let _permit = admin.permit()?;
    Ok(document(&admin.updater.unload(&model).await?))
}

async fn cancel(State(admin): State<Admin>, path: ModelPath) -> Result<Response<Body>, Refused> {
    let model = admin.find(&model_of(path)?)?;
    let updates = admin.updater.cancel(&model).await?;
    let generation = model.serving().map_or(0, |(generation, _)| generation);
    Ok(document(&Cancelled { model: model.name.to_string(), generation, updates }))
}

/// Runs an update in its own task, so that it completes even if the caller disconnects.
async fn run(admin: &Admin, model: &str, job: Job) -> Result<Response<Body>, Refused> {
    let (model, permit) = (admin.find(model)?, admin.permit()?);
    let updater = Arc::clone(&admin.updater);
    let (messages, queue) = mpsc::channel(STEPS_MAX);
    tokio::spawn(async move {
        let (progress, mut steps) = mpsc::channel(STEPS_MAX);
        let sender = messages.clone();
        let forwarder = tokio::spawn(async move {
            while let Some(step) = steps.recv().await {
                // The caller may have disconnected.
                let _ = sender.send(Message::Step(step)).await;
            }
        });
        let result = updater.update(&model, job, progress).await;
        // Ends once the updater has dropped its sender.
        let _ = forwarder.await;
        let _ = messages.send(Message::End(result)).await;
        drop(permit);
    });
    respond(queue).await
}
