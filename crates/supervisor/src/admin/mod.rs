//! The admin interface: over a Unix socket, and over TCP where that is asked for. `update` and
//! `rollback` answer one line of JSON for each step as it happens, and a last one with the outcome
//! or the error.
//!
//! - [`socket`]: the Unix socket.
//! - [`guard`]: who may come in over TCP.
//! - [`status`]: what `onnxd status` shows.
//!
//! Triton's repository API is served beside it, see [`repository`].

mod guard;
pub(crate) mod repository;
mod socket;
mod status;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{self, State},
    http::Response,
    routing::{get, post},
};
use bytes::Bytes;
use hyper::body::Frame;
use onnxd_proto::domain::Load;
use onnxd_proto::{
    domain::{Refusal, RefusalKind},
    generation::Generation,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

pub(crate) use crate::admin::{
    guard::guarded,
    socket::{AdminSocket, CONNECTIONS_MAX, remove_successors, take_name_over},
};
use onnxd_engine::{
    dispatch::Event,
    models::{
        machine::events::{Job, Target},
        registry::{Model, Registry},
        store::Store,
        update::{Updater, source},
    },
};
use onnxd_telemetry::metrics::Metrics;

/// Updates, rollbacks and unloads that may be under way at once, of all models. More are refused.
const CALLS_MAX: usize = 768;
/// Steps of one update that may wait for a slow reader.
const STEPS_MAX: usize = 64;

/// What the admin handlers need.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub registry: Arc<Registry>,
    pub updater: Arc<Updater>,
    pub store: Arc<Store>,
    pub events: mpsc::Sender<Event>,
    pub metrics: Arc<Metrics>,
    /// Places for updates and rollbacks.
    pub calls: Arc<Semaphore>,
}

impl Admin {
    /// Places for as many updates and rollbacks as may be under way at once.
    pub(crate) fn calls() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(CALLS_MAX))
    }

    /// The model of that name.
    ///
    /// # Errors
    /// It is not served.
    pub(super) fn find(&self, model: &str) -> Result<Arc<Model>, Refusal> {
        self.registry.find(Some(model)).cloned().ok_or_else(|| {
            RefusalKind::NotFound.because(format!("the model {model:?} is not served"))
        })
    }

    /// A place for one update or unload.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.calls).try_acquire_owned().map_err(|_| {
            RefusalKind::Busy.because(format!("{CALLS_MAX} updates are under way already"))
        })
    }
}

/// The admin interface and the repository API.
pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/admin/status", get(status::status))
        .route("/admin/models/{model}/update", post(update))
        .route("/admin/models/{model}/rollback", post(rollback))
        .route("/admin/models/{model}/unload", post(unload))
        .merge(repository::routes())
        .with_state(admin)
}

/// The body of an update call.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpdateCall {
    /// The source of the new version, `DIR` or `file:///DIR`; the model's own where it is missing.
    pub from: Option<String>,
    /// When workers load it.
    pub load: Load,
    /// Also a version that failed its probation before.
    pub force: bool,
    /// Also a version whose embeddings have another dimension.
    pub allow_dimension_change: bool,
}

/// The body of a rollback call.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RollbackCall {
    /// The generation whose version is served again.
    pub to: Option<Generation>,
}

async fn update(
    State(admin): State<Admin>,
    extract::Path(model): extract::Path<String>,
    Json(mut call): Json<UpdateCall>,
) -> Response<Body> {
    let from = match call.from.take().map(|from| source(&from)).transpose() {
        Ok(from) => from,
        Err(refusal) => return refused(&refusal),
    };
    let UpdateCall { load, force, allow_dimension_change, .. } = call;
    let target = Target::Source(from);
    run(&admin, &model, Job { target, load, force, allow_dimension_change })
}

async fn rollback(
    State(admin): State<Admin>,
    extract::Path(model): extract::Path<String>,
    Json(call): Json<RollbackCall>,
) -> Response<Body> {
    // Asked for by name or as the one before: a rollback is not held up by what is known of it.
    let target = Target::Generation(call.to);
    run(&admin, &model, Job::unconditional(target, Load::Ahead))
}

async fn unload(
    State(admin): State<Admin>,
    extract::Path(model): extract::Path<String>,
) -> Response<Body> {
    let unloaded = async {
        let model = admin.find(&model)?;
        let _place = admin.place()?;
        admin.updater.unload(&model).await
    };
    match unloaded.await {
        Ok(unloaded) => Response::new(Body::from(line(&unloaded))),
        Err(refusal) => refused(&refusal),
    }
}

/// Runs an update in a task of its own, so that it ends well also when the caller goes away.
fn run(admin: &Admin, model: &str, job: Job) -> Response<Body> {
    let (model, place) = match admin.find(model).and_then(|model| Ok((model, admin.place()?))) {
        Ok(found) => found,
        Err(refusal) => return refused(&refusal),
    };
    let updater = Arc::clone(&admin.updater);
    let (lines, queue) = mpsc::channel::<Bytes>(STEPS_MAX);
    tokio::spawn(async move {
        let (progress, mut steps) = mpsc::channel(STEPS_MAX);
        let told = lines.clone();
        let telling = tokio::spawn(async move {
            while let Some(step) = steps.recv().await {
                // The caller may have gone.
                let _ = told.send(line(&step)).await;
            }
        });
        let result = updater.update(&model, job, progress).await;
        // It ends when the updater has dropped its sender.
        let _ = telling.await;
        let last = match &result {
            Ok(outcome) => line(outcome),
            Err(refusal) => line(&json!({ "error": refusal })),
        };
        let _ = lines.send(last).await;
        drop(place);
    });
    Response::new(Body::new(Lines(queue)))
}

/// A body that is sent line by line as the lines come.
struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

fn line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("our own types are valid JSON");
    line.push(b'\n');
    line.into()
}

fn refused(refusal: &Refusal) -> Response<Body> {
    Response::new(Body::from(line(&json!({ "error": refusal }))))
}
