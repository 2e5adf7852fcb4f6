//! The main loop of a worker: greet the supervisor, load committed generations, report readiness,
//! and answer messages until the socket closes. The loop blocks: a worker has one CPU and does one
//! thing at a time.

use std::{convert::Infallible, fs::File, sync::Arc, time::Instant};

use onnxd_proto::{
    BUILD_ID,
    control_page::{ControlPageView, Slot},
    layout::Layout,
    wire::{
        message::{FromWorker, ToWorker, Welcome},
        operation::Rejection,
    },
};
use onnxd_sandbox::files::Files;
use onnxd_telemetry::log;
use tracing::{debug, info};

use crate::{
    artifacts::compiled::{self, Key},
    families::{
        LoadedVersion,
        group::{self, Group, GroupRequest},
    },
    process::{
        fault::Fault,
        guard::Guard,
        ipc::{Receiver, Sender},
        terminations,
    },
    serving::{ahead::Loader, refresh::Model},
    session::{self, Runtime},
};

/// The state of the process when it greets the supervisor.
#[derive(Debug)]
pub(crate) struct StartInfo {
    /// The CPU it is pinned to, or why it is not pinned.
    pub(crate) pinned: Result<u16, String>,
    /// Whether the sandbox is on.
    pub(crate) confined: bool,
    /// The pipe with orders to terminate groups.
    pub(crate) terminations: File,
}

/// Serves until an error ends it. [`Fault::HungUp`] is the normal one.
pub(crate) fn run(
    mut receiver: Receiver,
    sender: Sender,
    start: StartInfo,
    page: &ControlPageView,
    guard: &Guard,
) -> Result<Infallible, Fault> {
    sender.send(&FromWorker::Hello { build_id: BUILD_ID.into(), pinned: start.pinned })?;
    let (_, ToWorker::Welcome(welcome), _) = receiver.receive()? else {
        return Err(Fault::Protocol("the first message must be Welcome".into()));
    };
    let layout = Layout::new(&welcome.state_dir);
    let files = start.confined.then(|| Files::for_worker(&layout, &welcome.admin_socket.path));
    let files = files.transpose()?;
    let guards = files.as_ref().map(Files::try_clone).transpose()?;
    guard.watch(welcome.admin_socket.clone(), guards)?;
    let mut worker = Worker::start(welcome, page, sender, files)?;
    // This thread is confined by now, and the new one inherits that.
    terminations::listen(start.terminations)?;
    loop {
        let (id, message, payload) = receiver.receive()?;
        match message {
            ToWorker::Run { slot, items, wide } => {
                worker.run(slot, &GroupRequest { id, items, wide }, payload)?;
            }
            ToWorker::Load { slot, version } => worker.load_ahead(slot, &version)?,
            ToWorker::Forget { slot } => worker.forget(id, slot)?,
            ToWorker::Ping => worker.ping(id)?,
            ToWorker::FilterLog { filter } => {
                log::set_filter(&filter).map_err(|error| Fault::Protocol(error.to_string()))?;
            }
            ToWorker::Welcome(_) => return Err(Fault::Protocol("Welcome was sent twice".into())),
        }
    }
}

/// A worker that has been greeted.
struct Worker<'a> {
    layout: Layout,
    page: &'a ControlPageView,
    models: Vec<Model<LoadedVersion>>,
    loader: Loader<LoadedVersion>,
    sender: Sender,
}

impl<'a> Worker<'a> {
    /// Loads ONNX Runtime and all committed generations.
    fn start(
        welcome: Welcome,
        page: &'a ControlPageView,
        sender: Sender,
        files: Option<Files>,
    ) -> Result<Self, Fault> {
        let runtime = Arc::new(Runtime::open(&welcome.onnxruntime)?);
        compiled::detect_cpu();
        // Confine only now: ONNX Runtime's libraries may be anywhere, models are in the state
        // directory. Threads started later inherit the sandbox.
        files.map_or(Ok(()), Files::enter)?;
        let layout = Layout::new(welcome.state_dir);
        let helpers = welcome.helper_cpus.into();
        let loader = start_loader(runtime, layout.clone(), helpers, sender.clone())?;
        let models = welcome.models.into_iter().map(Model::new).collect();
        let mut worker = Self { layout, page, models, loader, sender };
        for index in 0..worker.models.len() {
            worker.refresh(index)?;
        }
        worker.sender.send(&FromWorker::Ready)?;
        info!("serving");
        Ok(worker)
    }

    fn run(&mut self, slot: Slot, request: &GroupRequest, payload: &[u8]) -> Result<(), Fault> {
        let parts = group::parts(&request.items, payload)?;
        let index = self.index_of(slot)?;
        self.refresh(index)?;
        let mut group = Group { request, sender: &self.sender };
        match self.models[index].serving() {
            Ok(serving) => {
                let generation = serving.generation;
                session::compute_group(request.id, || {
                    serving.content.answer(&mut group, &parts, generation)
                })?;
                // Built on first use: under load no group is wide, and building would cost CPU
                // time.
                if request.wide
                    && let Some(job) = serving.content.take_deferred()
                {
                    self.loader.defer(job);
                }
                Ok(())
            }
            Err(reason) => group.reject_all(Rejection::NotLoaded(reason)),
        }
    }

    /// Answers a ping. An idle worker follows commits here and frees the old version.
    fn ping(&mut self, id: u64) -> Result<(), Fault> {
        for index in 0..self.models.len() {
            self.refresh(index)?;
        }
        self.sender.answer(id, &FromWorker::Pong)
    }

    /// Loads a version next to the serving one. The answer follows once it is ready.
    fn load_ahead(&self, slot: Slot, version: &str) -> Result<(), Fault> {
        let answer = self.models[self.index_of(slot)?].load_ahead(version, &self.loader);
        answer.map_or(Ok(()), |answer| self.sender.send(&answer))
    }

    /// Drops what was loaded ahead, unless it is committed by now.
    fn forget(&mut self, id: u64, slot: Slot) -> Result<(), Fault> {
        self.refresh(self.index_of(slot)?)?;
        self.loader.forget(slot);
        self.sender.answer(id, &FromWorker::Forgotten)
    }

    /// Follows the committed generation of the model at `index`.
    fn refresh(&mut self, index: usize) -> Result<(), Fault> {
        let model = &mut self.models[index];
        let change = model.refresh(self.page, &self.layout, Instant::now(), &self.loader);
        change.map_or(Ok(()), |change| self.sender.send(&change))
    }

    fn index_of(&self, slot: Slot) -> Result<usize, Fault> {
        let index = self.models.iter().position(|model| model.slot() == slot);
        index.ok_or_else(|| Fault::Protocol(format!("unknown slot {slot}")))
    }
}

/// Starts the loader, which opens versions for serving, in the foreground and ahead.
fn start_loader(
    runtime: Arc<Runtime>,
    layout: Layout,
    helpers: Arc<[u16]>,
    sender: Sender,
) -> Result<Loader<LoadedVersion>, Fault> {
    let key = Key::new(&runtime);
    let load = move |version: &str| {
        let (dir, compiled) = (layout.version(version), layout.compiled(version));
        LoadedVersion::open_to_serve(&runtime, &dir, &compiled, &key, &helpers)
    };
    let report = move |message: &FromWorker| {
        // If the supervisor has exited, the guard ends the process.
        if let Err(fault) = sender.send(message) {
            debug!(%fault, "failed to report a load ahead");
        }
    };
    Ok(Loader::start(Box::new(load), Box::new(report))?)
}
