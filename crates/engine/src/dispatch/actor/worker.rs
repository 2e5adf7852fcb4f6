//! What the dispatcher knows of one worker: its process, its socket, its state, what it serves,
//! and the [`Groups`] it has.

use std::time::Instant;

use bytes::Bytes;
use onnxd_proto::{
    BUILD_ID, control_page::Slot, exit::ExitStatus, generation::Generation, wire::message::ToWorker,
};

use crate::dispatch::{
    policy::{
        ending::Ending,
        groups::{Groups, Sent, Unanswered},
        overdue::Overdue,
        scheduler::{Group, ItemId},
    },
    worker::{Load, Status},
};
use onnxd_telemetry::metrics::KillReason;

use crate::pool::{
    Epoch,
    keeper::{Ended, Keeper, Started},
    link::Link,
    state::{End, State, WorkerState},
};

/// One worker.
#[derive(Debug)]
pub struct Worker {
    pub state: WorkerState,
    pub keeper: Keeper,
    /// The number of the present process.
    pub epoch: Epoch,
    /// The CPU it is to be pinned to.
    pub cpu: u16,
    /// CPUs of other workers that it may use while they are idle.
    pub helper_cpus: Vec<u16>,
    /// Whether the worker found itself pinned.
    pub pinned: bool,
    pub(crate) ending: Ending,
    process: Option<Started>,
    link: Option<Link>,
    /// Since when its process is stopped.
    stopped_since: Option<Instant>,
    /// Since when it has had a process.
    started_at: Option<Instant>,
    /// It is about to end, because we killed it.
    killed: Option<KillReason>,
    pub(crate) groups: Groups,
    /// What it serves, by slot.
    loads: Vec<Load>,
    /// The newest that any of its processes has loaded, by slot.
    newest_seen: Vec<Generation>,
    /// What it could not load, by slot; 0 is none.
    not_loaded: Vec<Generation>,
    /// What was committed when it was told to load, by slot; empty before.
    to_load: Vec<Generation>,
    /// Since when a ping is unanswered.
    pub pinged: Option<Instant>,
    /// Whether it is to get another one when that is answered.
    pub owed_ping: bool,
    /// Why starting it again is hopeless, where it is.
    pub hopeless: Option<String>,
}

impl Worker {
    /// A worker that is to be started at `now`.
    pub fn new(keeper: Keeper, cpu: u16, models: usize, state: WorkerState) -> Self {
        Self {
            state,
            keeper,
            epoch: 0,
            cpu,
            helper_cpus: Vec::new(),
            pinned: false,
            ending: Ending::default(),
            process: None,
            link: None,
            stopped_since: None,
            started_at: None,
            killed: None,
            groups: Groups::default(),
            loads: vec![Load::default(); models],
            newest_seen: vec![0; models],
            not_loaded: vec![0; models],
            to_load: Vec::new(),
            pinged: None,
            owed_ping: false,
            hopeless: None,
        }
    }

    /// How the worker is.
    pub fn status(&self, id: usize) -> Status {
        Status {
            id,
            pid: self.pid().unwrap_or(0),
            cpu: self.pinned.then_some(self.cpu),
            state: self.state.state(),
            loads: self.loads.clone(),
            restarts: self.state.restarts(),
            items: self.groups.unanswered().count(),
        }
    }

    /// Whether it serves and is not stopped.
    pub(crate) fn goes_on(&self) -> bool {
        self.state.serves() && !self.is_stopped()
    }

    /// Whether it has nothing to do and may get work.
    pub(crate) fn is_idle(&self) -> bool {
        self.state.is_idle() && self.link.is_some()
    }

    /// Whether it may get its next group already: what it has is done before another could be
    /// sent.
    pub(crate) fn is_nearly_idle(&self) -> bool {
        self.state.state() == State::Busy && self.link.is_some() && self.groups.are_nearly_done()
    }

    /// The number of its process, where there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }

    /// A process has been started for it.
    pub fn started(&mut self, process: Started, now: Instant) {
        self.process = Some(process);
        self.started_at = Some(now);
    }

    /// Its socket is open.
    pub fn connected(&mut self, link: Link) {
        self.link = Some(link);
        self.ending.connected();
    }

    /// Sends a message. `false`: it cannot be sent, and the worker has to go.
    pub fn send(&self, id: u64, message: &ToWorker, payload: Vec<Bytes>) -> bool {
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
    pub fn loaded(&mut self, slot: Slot, load: Load) -> Option<()> {
        *self.loads.get_mut(usize::from(slot))? = load;
        self.not_loaded[usize::from(slot)] = 0;
        self.newest_seen[usize::from(slot)] = load.generation;
        Some(())
    }

    /// It has nothing of a model any more. `None`: there is no such slot.
    pub fn unloaded(&mut self, slot: Slot) -> Option<()> {
        *self.loads.get_mut(usize::from(slot))? = Load::default();
        self.not_loaded[usize::from(slot)] = 0;
        Some(())
    }

    /// It has tried to refresh a model and serves what it had.
    pub fn could_not_load(&mut self, slot: Slot, generation: Generation) {
        if let Some(not_loaded) = self.not_loaded.get_mut(usize::from(slot)) {
            *not_loaded = generation;
        }
    }

    /// The newest generation of a model that it ever had.
    pub(crate) fn newest_seen(&self, slot: Slot) -> Generation {
        self.newest_seen.get(usize::from(slot)).copied().unwrap_or(0)
    }

    /// It is told to load what is committed.
    pub fn welcomed(&mut self, committed: Vec<Generation>) {
        self.to_load = committed;
    }

    /// The first model that it was told to load and has not, and the generation. What it could not
    /// load, or what has been unloaded since, is behind it.
    pub fn is_loading(&self, committed: impl Fn(Slot) -> Generation) -> Option<(Slot, Generation)> {
        let has_not = |&(slot, to_load): &(Slot, Generation)| {
            let not_loaded = self.not_loaded.get(usize::from(slot)).is_some_and(|&not| not > 0);
            self.generation(slot) < to_load && !not_loaded && committed(slot) > 0
        };
        (0..).zip(self.to_load.iter().copied()).find(has_not)
    }

    /// The first model of which it has not loaded what is committed and what it could load: when it
    /// is asked for anything it loads that first.
    pub fn is_behind(&self, committed: impl Fn(Slot) -> Generation) -> Option<(Slot, Generation)> {
        let slots = (0..).zip(&self.loads).map(|(slot, load)| (slot, load.generation));
        slots.map(|(slot, has)| (slot, has, committed(slot))).find_map(|(slot, has, committed)| {
            let behind = has < committed && !self.failed_to_load(slot, committed);
            behind.then_some((slot, committed))
        })
    }

    /// Whether there is something that it could not load.
    pub fn has_failed_to_load(&self) -> bool {
        self.not_loaded.iter().any(|&generation| generation != 0)
    }

    /// Whether it has tried to load this generation and failed.
    pub fn failed_to_load(&self, slot: Slot, generation: Generation) -> bool {
        generation != 0 && self.not_loaded.get(usize::from(slot)) == Some(&generation)
    }

    /// The generation of a model that it serves; 0 is none.
    pub fn generation(&self, slot: Slot) -> Generation {
        self.loads.get(usize::from(slot)).map_or(0, |load| load.generation)
    }

    /// The build of the worker must be ours.
    pub fn accept_build(&mut self, build_id: &str) -> bool {
        let same = build_id == BUILD_ID;
        if !same {
            self.hopeless = Some(format!(
                "--worker-binary is of another build: it says {build_id}, this supervisor is {BUILD_ID}"
            ));
        }
        same
    }

    /// It has been sent a group.
    pub(crate) fn assign(&mut self, group: &Group, sent: Sent) {
        self.groups.push(group, sent);
        self.state.group_sent();
    }

    /// What it must have done by when.
    pub(crate) fn overdue(&self) -> impl Iterator<Item = Overdue> + '_ {
        let group = self.groups.overdue().filter(|_| self.link.is_some());
        let stopped = self.stopped_since.map(Overdue::Stopped);
        let is_starting = self.state.state() == State::Starting;
        let starting = self.started_at.filter(|_| is_starting).map(Overdue::Starting);
        // Whoever has a group answers when it is done, and has until its deadline.
        let is_idle = self.groups.is_empty() && self.link.is_some();
        let pinged = self.pinged.filter(|_| is_idle).map(Overdue::Pinged);
        let all = group.into_iter().chain(stopped).chain(starting).chain(pinged);
        all.filter(|_| self.killed.is_none())
    }

    /// Tells it to terminate what it computes, if the deadline of an unanswered item has passed.
    pub fn terminate(
        &mut self,
        deadline: impl Fn(&ItemId) -> Option<Instant>,
        now: Instant,
    ) -> bool {
        let over = self.groups.terminate(deadline, now);
        if let (Some(id), Some(process)) = (over, &self.process) {
            process.terminate(id);
        }
        over.is_some()
    }

    /// Whether somebody has stopped its process.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped_since.is_some()
    }

    /// Somebody has stopped its process.
    pub fn stopped(&mut self, now: Instant) {
        self.stopped_since.get_or_insert(now);
    }

    /// Its process goes on.
    pub fn continued(&mut self) {
        self.stopped_since = None;
    }

    /// Ends the process, which does not go on by itself.
    pub(crate) fn kill_hung(&mut self, kill: KillReason) {
        self.killed = Some(kill);
        self.kill();
    }

    /// Why we killed it, if it is about to end because of that.
    pub(crate) fn killed_by_us(&self) -> Option<KillReason> {
        self.killed
    }

    /// Whether it ends because somebody had stopped it, for which nothing that it had is to blame.
    pub fn was_stopped(&self) -> bool {
        self.killed == Some(KillReason::Stopped)
    }

    /// Takes the items at these places out of the group with this number; `None` where they are
    /// not there to be answered. When no group is left the worker is ready again.
    pub fn answered(&mut self, id: u64, places: impl Iterator<Item = u32>) -> Option<Vec<ItemId>> {
        let items = self.groups.answered(id, places)?;
        if self.groups.is_empty() {
            self.state.group_done();
        }
        Some(items)
    }

    /// Ends the process now; its keeper will report the end.
    pub fn kill(&mut self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }

    /// Lets the process end by itself: its socket ends.
    pub fn hang_up(&mut self) {
        self.link = None;
    }

    /// What it was computing, which somebody else has to compute now.
    pub fn take_unanswered(&mut self) -> Vec<Unanswered> {
        self.link = None;
        let blameless = self.was_stopped();
        self.groups.take(blameless)
    }

    /// Its process has ended. Gives whether this counts among the ends of all workers.
    pub fn ended(&mut self, now: Instant, ended: &Ended, jitter: f64) -> bool {
        self.process = None;
        self.stopped_since = None;
        self.started_at = None;
        self.killed = None;
        (self.pinged, self.owed_ping) = (None, false);
        self.loads.fill(Load::default());
        self.not_loaded.fill(0);
        self.to_load.clear();
        if ended.code == Some(ExitStatus::Configuration as i32) && self.hopeless.is_none() {
            self.hopeless = Some("its configuration cannot work; its log says why".to_owned());
        }
        let end = match ended.code {
            _ if self.hopeless.is_some() => End::Hopeless,
            _ if ended.scarce => End::NotStarted,
            Some(0) if self.state.is_recycled() => End::Ordered,
            _ => End::Accident,
        };
        self.state.ended(now, end, jitter)
    }
}
