//! A worker's life after its start: greet the supervisor, load what is committed, say that it is
//! ready, and answer one message after another until the socket ends. The loop blocks: a worker
//! does one thing at a time, as it has one CPU.

use std::{convert::Infallible, time::Instant};

use onnxd_proto::{
    BUILD_ID,
    control_page::{ControlPageView, Slot},
    layout::Layout,
    message::{EmbedItem, FromWorker, Rejection, ToWorker, Welcome},
};
use tracing::info;

use crate::{
    fault::Fault,
    group::{self, Group},
    guard::Guard,
    ipc::{Receiver, Sender},
    model::Model,
    session::Runtime,
    version::LoadedVersion,
};

/// Serves until something ends it; [`Fault::HungUp`] is the end that is meant to be.
pub(crate) fn run(
    mut receiver: Receiver,
    mut sender: Sender,
    pinned: Result<u16, String>,
    page: &ControlPageView,
    guard: &Guard,
) -> Result<Infallible, Fault> {
    sender.tell(&FromWorker::Hello { build_id: BUILD_ID.into(), pinned })?;
    let (_, ToWorker::Welcome(welcome), _) = receiver.receive()? else {
        return Err(Fault::Protocol("the first message is not Welcome".into()));
    };
    guard.watch_over(welcome.admin_socket.clone());
    let mut worker = Worker::start(welcome, page, sender)?;
    loop {
        let (id, message, payload) = receiver.receive()?;
        match message {
            ToWorker::Embed { slot, items } => worker.embed(id, slot, &items, payload)?,
            ToWorker::Ping => worker.sender.send(id, &FromWorker::Pong, &[])?,
            ToWorker::Welcome(_) => return Err(Fault::Protocol("a second Welcome".into())),
        }
    }
}

/// What answers are made of.
struct Worker<'a> {
    runtime: Runtime,
    layout: Layout,
    page: &'a ControlPageView,
    models: Vec<Model<LoadedVersion>>,
    sender: Sender,
}

impl<'a> Worker<'a> {
    /// Loads ONNX Runtime and every committed generation.
    fn start(welcome: Welcome, page: &'a ControlPageView, sender: Sender) -> Result<Self, Fault> {
        let runtime = Runtime::open(&welcome.onnxruntime)?;
        let layout = Layout::new(welcome.state_dir);
        let models = welcome.models.into_iter().map(Model::new).collect();
        let mut worker = Self { runtime, layout, page, models, sender };
        for place in 0..worker.models.len() {
            worker.refresh(place)?;
        }
        worker.sender.tell(&FromWorker::Ready)?;
        info!("ready");
        Ok(worker)
    }

    fn embed(
        &mut self,
        id: u64,
        slot: Slot,
        items: &[EmbedItem],
        payload: &[u8],
    ) -> Result<(), Fault> {
        let texts = group::texts(items, payload)?;
        let place = self.models.iter().position(|model| model.slot() == slot);
        let place = place.ok_or_else(|| Fault::Protocol(format!("slot {slot} is unknown")))?;
        self.refresh(place)?;
        let mut group = Group { id, items, sender: &mut self.sender };
        match self.models[place].serving() {
            Ok(serving) => group.answer(&texts, serving),
            Err(reason) => group.reject_all(Rejection::NotLoaded(reason)),
        }
    }

    /// Follows the committed generation of the model at `place` in the list.
    fn refresh(&mut self, place: usize) -> Result<(), Fault> {
        let change = self.models[place].refresh(self.page, &self.layout, Instant::now(), |dir| {
            let mut version = LoadedVersion::open(&self.runtime, dir)?;
            version.warm_up()?;
            Ok(version)
        });
        change.map_or(Ok(()), |change| self.sender.tell(&change))
    }
}
