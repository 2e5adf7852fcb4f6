//! The simulated environment of a machine: a [`World`] carries out its actions and may let them fail.

use std::collections::BTreeMap;

use crate::models::{
    machine::{
        events::{Cause, Committed},
        *,
    },
    requester::Requester,
};

pub(super) const TIMES: Times =
    Times { load_ahead: Duration::from_secs(10), probation: Duration::from_secs(60) };

/// A payload of strings. Each names its version, so mixed-up versions show.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text;

impl Payload for Text {
    type Version = String;
    type Staged = String;
    type Checked = String;
    type Record = String;
}

pub(super) type Machine = UpdateMachine<Text>;

pub(super) fn job(version: &str, load: Load) -> Job {
    let target = Target::Version(version.to_owned());
    Job { target, ..Job::from_source(None, load) }
}

pub(super) fn candidate(version: &str) -> Candidate<Text> {
    let content = Content::Checked(version.to_owned());
    Candidate { version: version.to_owned(), quarantined: false, content }
}

/// Returns a candidate that is checked already, or still needs a check.
fn candidate_of(version: String, unchecked: bool, quarantined: bool) -> Candidate<Text> {
    let known = version.clone();
    let content = if unchecked { Content::Unchecked(known) } else { Content::Checked(known) };
    Candidate { version, quarantined, content }
}

/// Carries out the machine's actions and reports their results. A stream of random numbers decides
/// the order and the failures.
pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) now: Instant,
    pub(super) random: u64,
    /// Actions in progress.
    pub(super) pending: Vec<Action<Text>>,
    pub(super) workers: usize,
    pub(super) calls: BTreeMap<CallId, Job>,
    /// The calls that are load requests.
    pub(super) load_requests: Vec<CallId>,
    /// The durable generation found at start.
    pub(super) durable: Option<(Generation, String)>,
    /// The generation in the control page; 0 if none.
    pub(super) page: Generation,
    pub(super) loads: u32,
    pub(super) answers: BTreeMap<CallId, Result<Committed, Refusal>>,
    pub(super) commits: Vec<(Generation, String)>,
    pub(super) recorded: BTreeMap<Generation, String>,
    pub(super) quarantined: Vec<String>,
    pub(super) pauses: u32,
    /// The version for which the indexes are complete and writes are held back, or which is committed
    /// without: a rollback's, or the first one to serve.
    pub(super) fence: Option<String>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            machine: Machine::new(0, None, TIMES),
            now: Instant::now(),
            random: seed | 1,
            pending: Vec::new(),
            workers: 3,
            calls: BTreeMap::new(),
            load_requests: Vec::new(),
            durable: None,
            page: 0,
            loads: 0,
            answers: BTreeMap::new(),
            commits: Vec::new(),
            recorded: BTreeMap::new(),
            quarantined: Vec::new(),
            pauses: 0,
            fence: None,
        }
    }

    /// Draws a number below `below` with xorshift64, so a seed reproduces a run.
    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    pub(super) fn handle(&mut self, event: Event<Text>) {
        let actions = self.machine.handle(self.now, event);
        self.carry_out(actions);
    }

    /// Cancels updates and returns how many calls that ended.
    pub(super) fn cancel(&mut self) -> Result<usize, Refusal> {
        self.cancel_called_at(self.now)
    }

    /// Cancels updates for a call that arrived earlier.
    pub(super) fn cancel_called_at(&mut self, called: Instant) -> Result<usize, Refusal> {
        let (result, actions) = self.machine.cancel(self.now, called);
        self.carry_out(actions);
        result
    }

    fn carry_out(&mut self, actions: Vec<Action<Text>>) {
        for action in actions {
            match action {
                Action::Answer(call, result) => {
                    if let (true, Ok(served)) = (self.load_requests.contains(&call), &result) {
                        assert_eq!(
                            served.generation, self.page,
                            "a load request returns the serving generation"
                        );
                    }
                    let known = self.calls.contains_key(&call);
                    assert!(known, "unknown call {call}");
                    let before = self.answers.insert(call, result);
                    assert!(before.is_none(), "caller {call} was answered twice");
                }
                Action::Commit { generation, record, .. } => {
                    let version = self.recorded.get(&generation);
                    let version = version.expect("a committed generation has a record").clone();
                    assert_eq!(record, version, "the record belongs to another generation");
                    let is_restored = self.durable.as_ref().is_some_and(|it| it.0 == generation);
                    let is_complete = self.fence.as_ref() == Some(&version) || is_restored;
                    assert!(is_complete, "an index is incomplete");
                    let last = self.commits.last().map_or(0, |(generation, _)| *generation);
                    assert!(generation > last, "numbers only rise");
                    self.commits.push((generation, version));
                    self.page = generation;
                }
                Action::Quarantine(version) => self.quarantined.push(version),
                Action::AnnounceRollback { .. }
                | Action::RollbackFailed(_)
                | Action::Loaded { .. }
                | Action::DropLoadedAhead
                | Action::Retire { .. } => {}
                Action::AbortStep => {
                    let is_step = |action: &Action<_>| {
                        let is_staging = matches!(action, Action::Stage(_));
                        let is_check = matches!(action, Action::Check(..) | Action::ListWorkers);
                        is_staging || is_check || matches!(action, Action::Index(..))
                    };
                    let step = self.pending.iter().position(is_step);
                    self.pending.remove(step.expect("a step is running"));
                }
                Action::Unload => {
                    self.page = 0;
                    self.pending.push(Action::Unload);
                }
                action => self.pending.push(action),
            }
        }
        self.fence.take_if(|_| !self.machine.holds_writes());
    }

    pub(super) fn call(&mut self, job: Job) {
        let id = self.calls.len() as CallId;
        self.calls.insert(id, job.clone());
        self.handle(Event::Called(id, job));
    }

    pub(super) fn request_load(&mut self) {
        let id = self.calls.len() as CallId;
        self.calls.insert(id, Job { target: Target::Last, ..job("", Load::Lazy) });
        self.load_requests.push(id);
        self.handle(Event::LoadRequested(id, Load::Ahead));
    }

    /// Calls for a rollback to the generation committed first.
    pub(super) fn roll_back(&mut self) {
        let to = self.commits.first().map(|(generation, _)| *generation);
        let target = Target::Generation(to);
        self.call(Job { target, ..Job::from_source(None, Load::Lazy) });
    }

    pub(super) fn pause(&mut self) {
        self.pauses += 1;
        self.handle(Event::Paused);
        let takes_long = |action: &Action<Text>| match action {
            Action::Stage(job) => !is_rollback(job),
            Action::Index(job, _) => !is_automatic_rollback(job),
            _ => false,
        };
        // An aborted update leaves its step, whose result is ignored.
        let is_running = !self.machine.is_idle();
        assert!(
            !is_running || !self.pending.iter().any(takes_long),
            "a pause waits for a download or for embeddings"
        );
    }

    pub(super) fn resume(&mut self) {
        if self.pauses > 0 {
            self.pauses -= 1;
            self.handle(Event::Resumed);
        }
    }

    /// Returns a world after a restart, before the first use. Its last durable generation is 3.
    pub(super) fn restarted(seed: u64) -> Self {
        let durable = (3, "v0".to_owned());
        let mut world = Self { machine: Machine::new(5, None, TIMES), ..Self::new(seed) };
        world.recorded.insert(3, durable.1.clone());
        world.durable = Some(durable);
        world
    }

    /// Finishes one pending action, which succeeds with a chance of `luck` in ten.
    pub(super) fn finish_one(&mut self, luck: u64) {
        if self.pending.is_empty() {
            return;
        }
        let index = usize::try_from(self.draw(self.pending.len() as u64)).unwrap();
        let mut succeeds = self.draw(10) < luck;
        let bad = || RefusalKind::Internal.because("the simulation says so");
        match self.pending.remove(index) {
            Action::Stage(job) => {
                self.loads += 1;
                let unchecked = self.draw(2) == 0;
                let candidate = match (job.target, self.durable.clone()) {
                    (Target::Version(version), _) => {
                        let quarantined = self.quarantined.contains(&version);
                        candidate_of(version, unchecked, quarantined)
                    }
                    (Target::Generation(to), _) => {
                        let version = to.and_then(|to| self.recorded.get(&to));
                        succeeds &= version.is_some();
                        candidate(version.map_or("", String::as_str))
                    }
                    (Target::Last, Some((generation, version))) => {
                        let content = Content::Durable(generation, version.clone());
                        Candidate { content, ..candidate(&version) }
                    }
                    (Target::Last, None) => candidate_of("source".to_owned(), unchecked, false),
                    other => unreachable!("{other:?}"),
                };
                self.handle(Event::Staged(if succeeds { Ok(candidate) } else { Err(bad()) }));
            }
            Action::Check(job, staged) => {
                if let Target::Version(version) = job.target {
                    assert_eq!(staged, version, "the content belongs to another job");
                }
                self.handle(Event::Checked(if succeeds { Ok(staged) } else { Err(bad()) }));
            }
            Action::ListWorkers => self.handle(Event::Workers((0..self.workers).collect())),
            Action::LoadAhead(worker, version) => {
                let result = if succeeds { Ok(()) } else { Err("no memory".to_owned()) };
                self.handle(Event::Worker(WorkerEvent::Loaded(worker, version, result)));
            }
            Action::Index(job, version) => {
                let may_lack = is_rollback(&job) || self.page == 0;
                self.fence = (succeeds || may_lack).then_some(version);
                self.handle(Event::Indexed(if succeeds { Ok(()) } else { Err(bad()) }));
            }
            Action::Propose(Proposal { after, .. }) => {
                // Skip numbers that a coordinator might have given to others.
                let skipped = if luck < 10 { self.draw(2) } else { 0 };
                self.handle(Event::Decided(if succeeds {
                    Ok(after + 1 + skipped)
                } else {
                    Err(bad())
                }));
            }
            Action::Record(generation, version, checked) => {
                assert_eq!(version, checked, "the check result belongs to another version");
                assert!(!self.recorded.contains_key(&generation), "numbers are never reused");
                if succeeds {
                    self.recorded.insert(generation, version.clone());
                }
                self.handle(Event::Recorded(if succeeds { Ok(version) } else { Err(bad()) }));
            }
            Action::Drain => self.handle(Event::Drained),
            Action::Unload => self.handle(Event::Unloaded),
            other => unreachable!("{other:?}"),
        }
    }

    /// Finishes pending actions until the update is proposed.
    pub(super) fn run_to_proposal(&mut self) {
        while !matches!(self.pending[..], [Action::Propose(_)]) {
            self.finish_one(10);
        }
    }

    /// Finishes pending actions until the machine is idle.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.pending.is_empty() {
                assert!(self.machine.running.is_none());
                let Some(deadline) = self.machine.deadline() else {
                    assert!(self.machine.waiting.is_none());
                    return;
                };
                self.now = self.now.max(deadline);
                self.handle(Event::Ticked);
                continue;
            }
            self.finish_one(10);
        }
        panic!("the machine does not become idle");
    }

    pub(super) fn step(&mut self) {
        let pause = self.draw(2000);
        self.now += Duration::from_millis(pause);
        match self.draw(18) {
            0..3 => {
                let version = format!("v{}", self.draw(4));
                let load = if self.draw(2) == 0 { Load::Ahead } else { Load::Lazy };
                self.call(job(&version, load));
            }
            3 => {
                let worker = usize::try_from(self.draw(3)).unwrap();
                let event = match self.draw(3) {
                    0 => WorkerEvent::Exited(worker, Cause::Fault),
                    1 => WorkerEvent::Exited(worker, Cause::Killed),
                    _ => WorkerEvent::Absent(worker),
                };
                self.handle(Event::Worker(event));
            }
            4 => {
                let generation = self.commits.last().map_or(0, |(generation, _)| *generation);
                self.handle(worker_failed(generation));
            }
            5 => self.handle(Event::Ticked),
            6 => self.call(Job::unload()),
            7 => self.request_load(),
            8 => self.roll_back(),
            9 => self.pause(),
            10 => self.resume(),
            11 => drop(self.cancel()),
            _ => self.finish_one(8),
        }
    }
}

/// Returns whether the job stages a kept version.
fn is_rollback(job: &Job) -> bool {
    is_automatic_rollback(job) || matches!(job.target, Target::Generation(_))
}

fn is_automatic_rollback(job: &Job) -> bool {
    job.requester == Requester::Server && matches!(job.target, Target::Version(_))
}

pub(super) fn worker_failed(generation: Generation) -> Event<Text> {
    Event::Worker(WorkerEvent::Failed(generation))
}

/// Returns a world that has served `a` as generation 1 and now has `b` on probation as 2.
pub(super) fn on_probation() -> World {
    let mut world = World::new(7);
    world.call(job("a", Load::Ahead));
    world.settle();
    world.call(job("b", Load::Ahead));
    world.settle();
    assert_eq!(world.commits, [(1, "a".to_owned()), (2, "b".to_owned())]);
    world
}
