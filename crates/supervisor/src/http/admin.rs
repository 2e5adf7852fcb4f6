//! The admin interface: HTTP over a Unix socket that only its owner can open, with the peer's
//! uid checked once more. `update` and `rollback` answer one line of JSON for each step as it
//! happens, and a last one with the outcome or the error.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{self, State},
    http::{Request, Response},
    response::IntoResponse,
    routing::{get, post},
};
use bytes::Bytes;
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use interprocess::{
    local_socket::{
        GenericFilePath, ListenerOptions, ToFsName,
        tokio::{Listener, Stream, prelude::*},
    },
    os::unix::local_socket::ListenerOptionsExt,
};
use nix::unistd::{Uid, geteuid};
use onnxd_proto::{
    generation::Generation,
    message::{NamedSocket, Refusal, RefusalKind},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tower::ServiceExt;

use crate::{
    dispatch::{Event, worker},
    http::error::axum_json,
    metrics::Metrics,
    models::{
        events::{Job, Target},
        registry::{Model, Registry},
        store::Store,
        update::{Load, Updater, absolute},
    },
};

/// Admin connections at once. Updates that wait for their turn hold one each, so there are more
/// than there can be of those.
const CONNECTIONS_MAX: usize = 1024;
/// Updates and rollbacks that may be under way at once, of all models. More are refused.
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
}

/// The body of an update call.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpdateCall {
    /// The directory with the new version; the model's own source where it is missing.
    pub from: Option<PathBuf>,
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

/// The bound admin socket. Dropping it removes the name.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    listener: Listener,
    name: NamedSocket,
}

impl AdminSocket {
    /// Binds the socket with mode 0600. A socket that a dead supervisor left behind is replaced;
    /// the state directory's lock has shown that no living one uses it with this state.
    ///
    /// # Errors
    /// The path cannot be bound, or a living server answers on it.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another server answers here",
                ));
            }
            fs::remove_file(path)?;
        }
        let listener = ListenerOptions::new()
            .name(path.to_fs_name::<GenericFilePath>()?)
            .mode(0o600)
            .create_tokio()?;
        let metadata = fs::symlink_metadata(path)?;
        let name =
            NamedSocket { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() };
        Ok(Self { listener, name })
    }

    /// What workers remove if this process cannot.
    pub(crate) fn name(&self) -> NamedSocket {
        self.name.clone()
    }

    /// Serves until the task is dropped.
    pub(crate) async fn serve(self, admin: Admin) {
        let router = Router::new()
            .route("/admin/status", get(status))
            .route("/admin/models/{model}/update", post(update))
            .route("/admin/models/{model}/rollback", post(rollback))
            .with_state(admin);
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "an admin connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            };
            if !may_administer(&stream) {
                tracing::warn!("an admin connection of another user was refused");
                continue;
            }
            let router = router.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    router.clone().oneshot(request.map(Body::new))
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "an admin connection ended early");
                }
                drop(permit);
            });
        }
    }
}

/// Only root and whoever runs the supervisor.
fn may_administer(stream: &Stream) -> bool {
    let peer = stream.peer_creds().ok().and_then(|credentials| credentials.euid());
    peer.is_some_and(|uid| uid == geteuid().as_raw() || Uid::from_raw(uid).is_root())
}

async fn update(
    State(admin): State<Admin>,
    extract::Path(model): extract::Path<String>,
    Json(mut call): Json<UpdateCall>,
) -> Response<Body> {
    let from = match call.from.take().map(|from: PathBuf| absolute(&from)).transpose() {
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
    let job = Job { target, load: Load::Ahead, force: true, allow_dimension_change: true };
    run(&admin, &model, job)
}

/// Runs an update in a task of its own, so that it ends well also when the caller goes away.
fn run(admin: &Admin, model: &str, job: Job) -> Response<Body> {
    let Some(model) = admin.registry.find(Some(model)).cloned() else {
        let message = format!("the model {model:?} is not served");
        return refused(&RefusalKind::NotFound.because(message));
    };
    let Ok(call) = Arc::clone(&admin.calls).try_acquire_owned() else {
        let message = format!("{CALLS_MAX} updates are under way already");
        return refused(&RefusalKind::Busy.because(message));
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
        drop(call);
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

async fn status(State(admin): State<Admin>) -> Response<Body> {
    let (reply, answer) = oneshot::channel();
    // Where the dispatcher has gone there are no workers to show.
    let _ = admin.events.send(Event::StatusAsked(reply)).await;
    let workers = answer.await.unwrap_or_default();
    let models = admin.registry.models();
    let body = json!({
        "models": models.iter().map(|model| model_status(model, &admin.store)).collect::<Vec<_>>(),
        "workers": workers.iter().map(|worker| worker_status(worker, models)).collect::<Vec<_>>(),
        "counters": *admin.metrics,
    });
    axum_json(&body).into_response()
}

fn model_status(model: &Model, store: &Store) -> Value {
    let serving = model.serving();
    let record = serving.as_ref().map(|(_, record)| record);
    json!({
        "name": model.name,
        "generation": serving.as_ref().map_or(0, |(generation, _)| *generation),
        "version": record.map(|record| &record.version),
        "task": record.map(|record| record.facts.task),
        "dimension": record.map(|record| record.facts.dimension),
        "drift": record.map(|record| record.drift),
        "quarantined": store.quarantined(&model.name),
        "source": model.source,
    })
}

fn worker_status(worker: &worker::Status, models: &[Arc<Model>]) -> Value {
    let generation =
        |model: &Arc<Model>| (model.name.to_string(), json!(load(worker, model).generation));
    let loads = |model: &Arc<Model>| {
        let worker::Load { micros, compiled, at, .. } = load(worker, model);
        let seconds_ago = at.map(|at| at.elapsed().as_secs());
        let load =
            json!({ "load_micros": micros, "compiled": compiled, "seconds_ago": seconds_ago });
        (model.name.to_string(), load)
    };
    let mut value = json!(worker);
    value["generations"] = Value::Object(models.iter().map(generation).collect());
    value["loads"] = Value::Object(models.iter().map(loads).collect());
    value["memory_bytes"] = json!(proportional_bytes(worker.pid));
    value
}

fn load(worker: &worker::Status, model: &Model) -> worker::Load {
    worker.loads.get(usize::from(model.slot)).copied().unwrap_or_default()
}

/// A process's share of all memory: its own, and of what it shares with others its part
/// (`Pss` of proc_pid_smaps(5)). `None` where no process runs.
fn proportional_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
