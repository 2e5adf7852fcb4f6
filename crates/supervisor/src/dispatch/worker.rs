//! What the dispatcher knows of one worker: its process, its socket, its state, and the group it
//! computes. Checks every answer against the group: a worker that answers something else is out
//! of step and has to go.

use std::time::Instant;

use bytes::Bytes;
use onnxd_proto::{
    BUILD_ID,
    control_page::Slot,
    exit::ExitStatus,
    generation::Generation,
    message::{Embeddings, ToWorker},
};
use serde::Serialize;

use super::scheduler::ItemId;
use crate::pool::{
    Epoch, WorkerId,
    keeper::{Ended, Keeper, Started},
    link::Link,
    state::{End, State, WorkerState},
};

/// One worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub state: WorkerState,
    pub keeper: Keeper,
    /// The number of the present process.
    pub epoch: Epoch,
    /// The CPU it is to be pinned to.
    pub cpu: u16,
    /// Whether the worker found itself pinned.
    pub pinned: bool,
    process: Option<Started>,
    link: Option<Link>,
    group: Option<Group>,
    /// What it serves, by slot.
    loads: Vec<Load>,
    /// What it could not load, by slot; 0 is none.
    not_loaded: Vec<Generation>,
    /// Whether a ping is unanswered.
    pub pinged: bool,
    /// Why starting it again is hopeless, where it is.
    pub hopeless: Option<String>,
}

/// What a worker has loaded of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// What it serves; 0 is none.
    pub generation: Generation,
    /// How long loading took when the worker did it by itself; 0 where it had been loaded ahead.
    pub micros: u64,
    /// Whether the weights are those that all workers share.
    pub compiled: bool,
    /// When it began to serve this generation.
    pub at: Option<Instant>,
}

/// What a worker computes.
#[derive(Debug)]
struct Group {
    id: u64,
    slot: Slot,
    /// The items that have no answer yet, by their place in the group.
    unanswered: Vec<Option<ItemId>>,
}

/// A worker as `onnxd status` shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    /// From 0.
    pub id: usize,
    /// 0 where no process runs.
    pub pid: u32,
    /// The CPU it is pinned to; `None` where it could not be.
    pub cpu: Option<u16>,
    /// See [`State`].
    pub state: State,
    /// What it serves, by slot.
    #[serde(skip)]
    pub loads: Vec<Load>,
    /// How often it was started again.
    pub restarts: u64,
}

impl Worker {
    /// A worker that is to be started at `now`.
    pub(crate) fn new(keeper: Keeper, cpu: u16, models: usize, now: Instant) -> Self {
        Self {
            state: WorkerState::new(now),
            keeper,
            epoch: 0,
            cpu,
            pinned: false,
            process: None,
            link: None,
            group: None,
            loads: vec![Load::default(); models],
            not_loaded: vec![0; models],
            pinged: false,
            hopeless: None,
        }
    }

    /// How the worker is.
    pub(crate) fn status(&self, id: usize) -> Status {
        Status {
            id,
            pid: self.process.as_ref().map_or(0, |process| process.pid),
            cpu: self.pinned.then_some(self.cpu),
            state: self.state.state(),
            loads: self.loads.clone(),
            restarts: self.state.restarts(),
        }
    }

    /// Whether it may get work now.
    pub(crate) fn is_idle(&self) -> bool {
        self.state.is_idle() && self.link.is_some()
    }

    /// Whether a process runs for it.
    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// A process has been started for it.
    pub(crate) fn started(&mut self, process: Started) {
        self.process = Some(process);
    }

    /// Its socket is open.
    pub(crate) fn connected(&mut self, link: Link) {
        self.link = Some(link);
    }

    /// Sends a message. `false`: it cannot be sent, and the worker has to go.
    pub(crate) fn send(&self, id: u64, message: &ToWorker, payload: Bytes) -> bool {
        let Some(link) = &self.link else { return false };
        match link.send(id, message, payload) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "a message could not be sent to a worker");
                false
            }
        }
    }

    /// It has refreshed a model. `None`: there is no such slot.
    pub(crate) fn loaded(&mut self, slot: Slot, load: Load) -> Option<()> {
        *self.loads.get_mut(usize::from(slot))? = load;
        Some(())
    }

    /// It has tried to refresh a model and serves what it had.
    pub(crate) fn could_not_load(&mut self, slot: Slot, generation: Generation) {
        if let Some(not_loaded) = self.not_loaded.get_mut(usize::from(slot)) {
            *not_loaded = generation;
        }
    }

    /// Whether it has tried to load this generation and failed.
    pub(crate) fn failed_to_load(&self, slot: Slot, generation: Generation) -> bool {
        generation != 0 && self.not_loaded.get(usize::from(slot)) == Some(&generation)
    }

    /// The generation of a model that it serves; 0 is none.
    pub(crate) fn generation(&self, slot: Slot) -> Generation {
        self.loads.get(usize::from(slot)).map_or(0, |load| load.generation)
    }

    /// The build of the worker must be ours.
    pub(crate) fn accept_build(&mut self, build_id: &str) -> bool {
        let same = build_id == BUILD_ID;
        if !same {
            self.hopeless = Some(format!(
                "--worker-binary is of another build: it says {build_id}, this supervisor is {BUILD_ID}"
            ));
        }
        same
    }

    /// It has been sent a group.
    pub(crate) fn assign(&mut self, id: u64, slot: Slot, items: &[ItemId]) {
        let unanswered = items.iter().copied().map(Some).collect();
        self.group = Some(Group { id, slot, unanswered });
        self.state.group_sent();
    }

    /// The slot of the group with this number, if it is the one being computed.
    pub(crate) fn group_slot(&self, id: u64) -> Option<Slot> {
        self.group.as_ref().filter(|group| group.id == id).map(|group| group.slot)
    }

    /// Takes the items at these places out of the group with this number; `None` where they are
    /// not there to be answered. When none is left the worker is ready again.
    pub(crate) fn answered(
        &mut self,
        id: u64,
        places: impl Iterator<Item = u32>,
    ) -> Option<Vec<ItemId>> {
        let group = self.group.as_mut().filter(|group| group.id == id)?;
        let take = |place| group.unanswered.get_mut(place as usize)?.take();
        let items: Vec<ItemId> = places.map(take).collect::<Option<_>>()?;
        if group.unanswered.iter().all(Option::is_none) {
            self.group = None;
            self.state.group_done();
        }
        Some(items)
    }

    /// Ends the process now; its keeper will report the end.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }

    /// Lets the process end by itself: its socket ends.
    pub(crate) fn hang_up(&mut self) {
        self.link = None;
    }

    /// What it was computing, which somebody else has to compute now.
    pub(crate) fn take_unanswered(&mut self) -> Option<(Slot, Vec<ItemId>)> {
        self.link = None;
        let group = self.group.take()?;
        Some((group.slot, group.unanswered.into_iter().flatten().collect()))
    }

    /// Its process has ended.
    pub(crate) fn ended(&mut self, now: Instant, ended: &Ended, jitter: f64) {
        self.process = None;
        self.pinged = false;
        self.loads.fill(Load::default());
        self.not_loaded.fill(0);
        if ended.code == Some(ExitStatus::Configuration as i32) && self.hopeless.is_none() {
            self.hopeless = Some("its configuration cannot work; its log says why".to_owned());
        }
        let end = if self.hopeless.is_some() { End::Hopeless } else { End::Accident };
        self.state.ended(now, end, jitter);
    }
}

/// The idle workers that may answer for a model. One that could not load what is committed must
/// not answer with an older generation while another can answer with the new one.
pub(crate) fn idle(
    workers: &[Worker],
    slot: Slot,
    committed: Generation,
) -> impl Iterator<Item = WorkerId> + '_ {
    let current = move |worker: &Worker| !worker.failed_to_load(slot, committed);
    let any_current = workers.iter().any(|worker| worker.state.serves() && current(worker));
    let may = move |worker: &Worker| worker.is_idle() && (current(worker) || !any_current);
    (0..).zip(workers).filter(move |(_, worker)| may(worker)).map(|(id, _)| id)
}

/// Whether a payload holds what its message says.
pub(crate) fn fits(embeddings: &Embeddings, payload: &[u8]) -> bool {
    let components = embeddings.items.len().checked_mul(embeddings.dimension as usize);
    components.and_then(|count| count.checked_mul(size_of::<f32>())) == Some(payload.len())
}
