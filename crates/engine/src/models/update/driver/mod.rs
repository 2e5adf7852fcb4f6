//! Does what a model's [`machine`](crate::models::machine) asks for: a task for each model that stages, checks,
//! has workers load ahead, records and commits, and tells callers how it goes. Decides nothing.

mod steps;

use std::{collections::HashMap, future::Future, sync::Arc, time::Instant};

use onnxd_proto::domain::{Checked, Drift, Facts, Record, Refusal};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time,
};

use crate::dispatch;
use crate::models::{
    gate::Presence,
    machine::{
        UpdateMachine,
        events::{Action, CallId, Committed, Event, Job},
    },
    registry::Model,
    store::{Hold, Staged},
    update::{Means, Progress, UpdateHandle, find::Found},
};
use onnxd_proto::domain::{Load, Outcome, Step};

/// Inputs of one machine that may wait.
const INPUTS_MAX: usize = 1024;

/// What comes to the task: calls, what happened to workers, and the outcomes of its own steps.
#[derive(Debug)]
pub(in crate::models::update) enum Input {
    Called(CallId, Job, Caller),
    Wanted(CallId, Load, Caller),
    Happened(Event),
    /// Begin nothing new, and say when nothing runs.
    Hold(oneshot::Sender<()>),
    Staging {
        bytes: u64,
        of: u64,
    },
    Staged(Result<Box<Found>, Refusal>),
    Passed(String),
    Checked(Result<Box<Checked>, Refusal>),
}

/// Who asked for an update.
#[derive(Debug)]
pub(in crate::models::update) struct Caller {
    pub progress: Progress,
    pub answer: oneshot::Sender<Result<Outcome, Refusal>>,
    pub start: Instant,
}

/// The task of one machine.
pub(in crate::models::update) struct Driver {
    machine: UpdateMachine,
    model: Arc<Model>,
    means: Means,
    inputs: mpsc::Sender<Input>,
    callers: HashMap<CallId, Caller>,
    /// The running update's content, from staging to commit.
    staged: Option<Staged>,
    facts: Option<Facts>,
    drift: Option<Drift>,
    hold: Option<Hold>,
    /// Keeps what served before, which a failed probation goes back to.
    before: Option<Hold>,
    record: Option<Arc<Record>>,
    /// The step that runs, and since when.
    step: Option<JoinHandle<()>>,
    step_start: Instant,
    asked: usize,
    loaded: usize,
    /// Whoever waits until nothing runs.
    holding: Vec<oneshot::Sender<()>>,
}

impl Driver {
    /// Starts the task; it ends when all handles to it are dropped.
    pub(in crate::models::update) fn start(
        machine: UpdateMachine,
        model: Arc<Model>,
        means: Means,
    ) -> UpdateHandle {
        let (inputs, queue) = mpsc::channel(INPUTS_MAX);
        let driver = Self {
            machine,
            model,
            means,
            inputs: inputs.clone(),
            callers: HashMap::new(),
            staged: None,
            facts: None,
            drift: None,
            hold: None,
            before: None,
            record: None,
            step: None,
            step_start: Instant::now(),
            asked: 0,
            loaded: 0,
            holding: Vec::new(),
        };
        let name = format!("updates of {}", driver.model.name);
        driver.means.tasks.clone().spawn(name, driver.run(queue));
        UpdateHandle::new(inputs)
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Input>) {
        loop {
            let deadline = self.machine.deadline();
            let input = tokio::select! {
                input = queue.recv() => match input {
                    Some(input) => input,
                    None => return,
                },
                () = sleep_until(deadline) => Input::Happened(Event::Ticked),
            };
            let Some(event) = self.take_in(input) else { continue };
            let actions = self.machine.handle(Instant::now(), event);
            let presence = self.machine.presence();
            // A gate is closed before anything follows from that, and open when what it opens for
            // serves: see `commit`.
            if presence != Presence::Loaded {
                self.model.gate.set(presence);
            }
            for action in actions {
                if matches!(action, Action::Commit(_)) {
                    self.model.settle().await;
                }
                self.act(action);
            }
            self.model.gate.set(presence);
            if self.machine.is_idle() {
                // Who asked may have given up.
                for holding in self.holding.drain(..) {
                    let _ = holding.send(());
                }
            }
        }
    }

    /// Keeps what the pure machine does not need to know, and turns the input into its event.
    fn take_in(&mut self, input: Input) -> Option<Event> {
        let seconds = self.step_start.elapsed().as_secs_f64();
        Some(match input {
            Input::Called(id, job, caller) => {
                self.callers.insert(id, caller);
                Event::Called(id, job)
            }
            Input::Wanted(id, load, caller) => {
                self.callers.insert(id, caller);
                Event::Wanted(id, load)
            }
            Input::Hold(holding) => {
                self.holding.push(holding);
                Event::Held
            }
            Input::Staging { bytes, of } => {
                self.tell(Step::Staging { bytes, of });
                return None;
            }
            Input::Staged(Ok(found)) => {
                let found = *found;
                let (version, bytes) = (found.candidate.version.clone(), found.bytes);
                self.staged = found.staged;
                self.facts = found.facts;
                self.drift = None;
                self.hold = Some(found.hold);
                if let (Some(generation), Some(record)) = (found.candidate.durable, found.record) {
                    tracing::info!(model = %self.model.name, generation, "the last durable generation is to serve");
                    self.record = Some(Arc::new(record));
                }
                if bytes > 0 {
                    self.tell(Step::Staged { version, bytes, seconds });
                }
                Event::Staged(Ok(found.candidate))
            }
            Input::Staged(Err(refusal)) => Event::Staged(Err(refusal)),
            Input::Passed(part) => {
                self.tell(Step::Passed { part });
                return None;
            }
            Input::Checked(Ok(checked)) => {
                let Checked { facts, drift, not_compiled, .. } = *checked;
                let dimension = facts.dimension;
                self.tell(Step::Checked { dimension, drift, not_compiled, seconds });
                self.facts = Some(facts);
                self.drift = drift;
                self.staged = None;
                Event::Checked(Ok(()))
            }
            Input::Checked(Err(refusal)) => Event::Checked(Err(refusal)),
            Input::Happened(event) => {
                match &event {
                    Event::Workers(workers) => (self.asked, self.loaded) = (workers.len(), 0),
                    Event::Loaded(worker, _, Ok(())) => {
                        self.loaded += 1;
                        let (worker, done, of) = (*worker, self.loaded, self.asked);
                        self.tell(Step::Loaded { worker, done, of });
                    }
                    Event::Stopped(_) => {
                        if let Some(step) = self.step.take() {
                            step.abort();
                        }
                    }
                    _ => {}
                }
                event
            }
        })
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Stage(job) => self.stage(job),
            Action::Check(job) => {
                let check = self.check(&job);
                self.spawn(async move { Input::Checked(check.await.map(Box::new)) });
            }
            Action::AskWorkers => {
                let events = self.means.events.clone();
                self.spawn(async move {
                    let (reply, answer) = oneshot::channel();
                    // Without a dispatcher there is no worker to wait for.
                    let _ = events.send(dispatch::Event::WorkersAsked(reply)).await;
                    Input::Happened(Event::Workers(answer.await.unwrap_or_default()))
                });
            }
            Action::LoadAhead(worker, version) => {
                let (events, slot) = (self.means.events.clone(), self.model.slot);
                tokio::spawn(async move {
                    // Without a dispatcher nothing is loaded, and the deadline passes.
                    let _ = events.send(dispatch::Event::LoadAhead(worker, slot, version)).await;
                });
            }
            Action::Record(generation, version) => self.write_record(generation, version),
            Action::Commit(generation) => self.commit(generation),
            Action::Answer(id, result) => self.answer(id, result),
            Action::Quarantine(version) => {
                let (store, model) = (Arc::clone(&self.means.store), self.model.name.clone());
                let background = self.means.background.clone();
                tokio::spawn(async move {
                    background.run(move || store.quarantine(&model, &version)).await
                });
            }
            Action::AnnounceRollback { from, to } => {
                self.means.metrics.automatic_rollbacks_total.add();
                tracing::error!(model = %self.model.name, failed = from, back_to = to, "workers failed twice in the probation of a generation: going back by itself");
            }
            Action::RollbackFailed(refusal) => {
                tracing::error!(model = %self.model.name, %refusal, "could not go back by itself: the version that failed serves on");
            }
            Action::Forget => {
                let (events, slot) = (self.means.events.clone(), self.model.slot);
                tokio::spawn(async move {
                    let _ = events.send(dispatch::Event::Forget(slot)).await;
                });
            }
            Action::Drain => self.drain(),
            Action::Unload => self.unload(),
            Action::Discard => (self.staged, self.hold) = (None, None),
        }
    }

    fn answer(&mut self, id: CallId, result: Result<Committed, Refusal>) {
        let Some(caller) = self.callers.remove(&id) else { return };
        if result.is_err() && self.machine.is_idle() && self.hold.is_some() {
            self.clean_up();
        }
        let outcome = result.map(|committed| Outcome {
            model: self.model.name.to_string(),
            generation: committed.generation,
            version: committed.version,
            previous_generation: committed.previous,
            load: committed.load,
            seconds: caller.start.elapsed().as_secs_f64(),
        });
        // The caller may have gone.
        let _ = caller.answer.send(outcome);
    }

    /// Runs one step of the update and tells the machine its outcome.
    fn spawn(&mut self, step: impl Future<Output = Input> + Send + 'static) {
        let inputs = self.inputs.clone();
        self.step_start = Instant::now();
        // Without its outcome the machine would wait for ever.
        let guard = self.means.tasks.guard(format!("an update step of {}", self.model.name));
        self.step = Some(tokio::spawn(async move {
            let _guard = guard;
            // The machine outlives its steps.
            let _ = inputs.send(step.await).await;
        }));
    }

    /// Tells a step to whoever asked for the update that runs.
    fn tell(&self, step: Step) {
        let caller = self.machine.caller().and_then(|id| self.callers.get(&id));
        if let Some(caller) = caller {
            let _ = caller.progress.try_send(step);
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
