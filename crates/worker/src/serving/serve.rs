//! A worker's life after its start: greet the supervisor, load what is committed, say that it is
//! ready, and answer one message after another until the socket ends. The loop blocks: a worker
//! does one thing at a time, as it has one CPU.

use std::{convert::Infallible, fs::File, sync::Arc, time::Instant};

use onnxd_proto::{
    BUILD_ID,
    control_page::{ControlPageView, Slot},
    layout::Layout,
    wire::{
        ask::Rejection,
        message::{FromWorker, ToWorker, Welcome},
    },
};
use tracing::{debug, info};

use crate::{
    artifacts::compiled::{self, Key},
    families::{
        LoadedVersion,
        group::{self, Asked, Group},
    },
    process::{
        fault::Fault,
        guard::Guard,
        hangs,
        ipc::{Receiver, Sender},
    },
    sandbox::files::Files,
    serving::{ahead::Loader, refresh::Model},
    session::{self, Runtime},
};

/// What is known of the process when it greets.
#[derive(Debug)]
pub(crate) struct Begun {
    /// The CPU that it runs on, or why on none of its own.
    pub(crate) pinned: Result<u16, String>,
    /// Whether it confines itself.
    pub(crate) confined: bool,
    /// Where it is told which group to terminate.
    pub(crate) terminations: File,
}

/// Serves until something ends it; [`Fault::HungUp`] is the end that is meant to be.
pub(crate) fn run(
    mut receiver: Receiver,
    sender: Sender,
    begun: Begun,
    page: &ControlPageView,
    guard: &Guard,
) -> Result<Infallible, Fault> {
    sender.tell(&FromWorker::Hello { build_id: BUILD_ID.into(), pinned: begun.pinned })?;
    let (_, ToWorker::Welcome(welcome), _) = receiver.receive()? else {
        return Err(Fault::Protocol("the first message is not Welcome".into()));
    };
    let layout = Layout::new(&welcome.state_dir);
    let files = begun.confined.then(|| Files::of_worker(&layout, &welcome.admin_socket.path));
    let files = files.transpose()?;
    let guards = files.as_ref().map(Files::try_clone).transpose()?;
    guard.watch_over(welcome.admin_socket.clone(), guards)?;
    let mut worker = Worker::start(welcome, page, sender, files)?;
    // Confined as this thread is by now.
    hangs::listen(begun.terminations)?;
    loop {
        let (id, message, payload) = receiver.receive()?;
        match message {
            ToWorker::Run { slot, items, wide } => {
                worker.run(slot, &Asked { id, items, wide }, payload)?;
            }
            ToWorker::Load { slot, version } => worker.load_ahead(slot, &version)?,
            ToWorker::Forget { slot } => worker.forget(id, slot)?,
            ToWorker::Ping => worker.ping(id)?,
            ToWorker::Welcome(_) => return Err(Fault::Protocol("a second Welcome".into())),
        }
    }
}

/// What answers are made of.
struct Worker<'a> {
    layout: Layout,
    page: &'a ControlPageView,
    models: Vec<Model<LoadedVersion>>,
    loader: Loader<LoadedVersion>,
    sender: Sender,
}

impl<'a> Worker<'a> {
    /// Loads ONNX Runtime and every committed generation.
    fn start(
        welcome: Welcome,
        page: &'a ControlPageView,
        sender: Sender,
        files: Option<Files>,
    ) -> Result<Self, Fault> {
        let runtime = Arc::new(Runtime::open(&welcome.onnxruntime)?);
        compiled::learn_cpu();
        // Its libraries may lie anywhere, models do not. Threads that are started from now on
        // are confined as this one is.
        files.map_or(Ok(()), Files::enter)?;
        let layout = Layout::new(welcome.state_dir);
        let helpers = welcome.helper_cpus.into();
        let loader = start_loader(runtime, layout.clone(), helpers, sender.clone())?;
        let models = welcome.models.into_iter().map(Model::new).collect();
        let mut worker = Self { layout, page, models, loader, sender };
        for place in 0..worker.models.len() {
            worker.refresh(place)?;
        }
        worker.sender.tell(&FromWorker::Ready)?;
        info!("ready");
        Ok(worker)
    }

    fn run(&mut self, slot: Slot, asked: &Asked, payload: &[u8]) -> Result<(), Fault> {
        let parts = group::parts(&asked.items, payload)?;
        let place = self.place(slot)?;
        self.refresh(place)?;
        let mut group = Group { asked, sender: &self.sender };
        match self.models[place].serving() {
            Ok(serving) => {
                let generation = serving.generation;
                session::during(asked.id, || {
                    serving.content.answer(&mut group, &parts, generation)
                })?;
                // Made when it is wanted first: under load it never is, and would take from it.
                if asked.wide
                    && let Some(later) = serving.content.take_later()
                {
                    self.loader.later(later);
                }
                Ok(())
            }
            Err(reason) => group.reject_all(Rejection::NotLoaded(reason)),
        }
    }

    /// An idle worker follows a commit when it is told to, and gives back what the old version
    /// used.
    fn ping(&mut self, id: u64) -> Result<(), Fault> {
        for place in 0..self.models.len() {
            self.refresh(place)?;
        }
        self.sender.answer(id, &FromWorker::Pong)
    }

    /// Has a version loaded beside what is served; the answer comes when it stands ready.
    fn load_ahead(&self, slot: Slot, version: &str) -> Result<(), Fault> {
        let answer = self.models[self.place(slot)?].load_ahead(version, &self.loader);
        answer.map_or(Ok(()), |answer| self.sender.tell(&answer))
    }

    /// Drops what was loaded ahead, unless it is what is committed now.
    fn forget(&mut self, id: u64, slot: Slot) -> Result<(), Fault> {
        self.refresh(self.place(slot)?)?;
        self.loader.forget(slot);
        self.sender.answer(id, &FromWorker::Forgotten)
    }

    /// Follows the committed generation of the model at `place` in the list.
    fn refresh(&mut self, place: usize) -> Result<(), Fault> {
        let model = &mut self.models[place];
        let change = model.refresh(self.page, &self.layout, Instant::now(), &self.loader);
        change.map_or(Ok(()), |change| self.sender.tell(&change))
    }

    fn place(&self, slot: Slot) -> Result<usize, Fault> {
        let place = self.models.iter().position(|model| model.slot() == slot);
        place.ok_or_else(|| Fault::Protocol(format!("slot {slot} is unknown")))
    }
}

/// Loads versions as they serve, here and ahead.
fn start_loader(
    runtime: Arc<Runtime>,
    layout: Layout,
    helpers: Arc<[u16]>,
    sender: Sender,
) -> Result<Loader<LoadedVersion>, Fault> {
    let key = Key::of(&runtime);
    let load = move |version: &str| {
        let (dir, compiled) = (layout.version(version), layout.compiled(version));
        LoadedVersion::open_to_serve(&runtime, &dir, &compiled, &key, &helpers)
    };
    let report = move |message: &FromWorker| {
        // If the supervisor is gone, the guard ends the process.
        if let Err(fault) = sender.tell(message) {
            debug!(%fault, "nobody hears what was loaded ahead");
        }
    };
    Ok(Loader::start(Box::new(load), Box::new(report))?)
}
