//! Does what a model's [machine](crate::models::machine) asks for: a task for each model that stages,
//! checks, has workers load ahead, records and commits, and tells callers how it goes. Decides
//! nothing.

use std::{collections::HashMap, future::Future, sync::Arc, time::Instant};

use onnxd_proto::domain::{Checked, Outcome, Refusal, Step};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::clock::sleep_until;
use crate::models::{
    gate::Presence,
    machine::{
        UpdateMachine,
        events::{Action, CallId, Committed, Content, Event, Job},
    },
    registry::Model,
    update::{
        Means, Progress, UpdateHandle,
        find::Found,
        payload::{Known, Versions},
    },
};
use onnxd_proto::domain::Load;

/// Inputs of one task that may wait.
const INPUTS_MAX: usize = 1024;

/// What comes to the task: calls, what happened to workers, and the outcomes of its own steps.
#[derive(Debug)]
pub(super) enum Input {
    Called(CallId, Job, Caller),
    Wanted(CallId, Load, Caller),
    Happened(Event<Versions>),
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
pub(super) struct Caller {
    pub progress: Progress,
    pub answer: oneshot::Sender<Result<Outcome, Refusal>>,
    pub start: Instant,
}

/// The task of one model.
pub(super) struct Driver {
    pub(super) machine: UpdateMachine<Versions>,
    pub(super) model: Arc<Model>,
    pub(super) means: Means,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) callers: HashMap<CallId, Caller>,
    /// The step that runs and is given up when onnxd stops.
    pub(super) step: Option<JoinHandle<()>>,
    pub(super) step_start: Instant,
    /// Whoever waits until nothing runs.
    pub(super) holding: Vec<oneshot::Sender<()>>,
}

impl Driver {
    /// Starts the task, which runs as long as the server.
    pub(super) fn start(
        machine: UpdateMachine<Versions>,
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
            step: None,
            step_start: Instant::now(),
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
                if matches!(action, Action::Commit { .. }) {
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

    /// Tells callers what the machine does not need to know, and turns the input into its event.
    fn take_in(&mut self, input: Input) -> Option<Event<Versions>> {
        let seconds = self.step_start.elapsed().as_secs_f64();
        Some(match input {
            Input::Called(id, job, caller) => {
                self.callers.insert(id, caller);
                Event::Called(id, job)
            }
            Input::Wanted(id, load, caller) => {
                self.callers.insert(id, caller);
                Event::LoadRequested(id, load)
            }
            Input::Hold(holding) => {
                self.holding.push(holding);
                Event::Held
            }
            Input::Staging { bytes, of } => {
                self.tell(Step::Staging { bytes, of });
                return None;
            }
            Input::Passed(part) => {
                self.tell(Step::Passed { part });
                return None;
            }
            Input::Staged(found) => Event::Staged(found.map(|found| {
                let Found { candidate, bytes } = *found;
                if let Content::Durable(generation, _) = candidate.content {
                    tracing::info!(model = %self.model.name, generation, "the last durable generation is to serve");
                }
                if bytes > 0 {
                    let version = candidate.version.as_ref().to_owned();
                    self.tell(Step::Staged { version, bytes, seconds });
                }
                candidate
            })),
            Input::Checked(checked) => Event::Checked(checked.map(|checked| {
                let Checked { facts, drift, not_compiled, .. } = *checked;
                let dimension = facts.dimension;
                self.tell(Step::Checked { dimension, drift, not_compiled, seconds });
                Known { facts: Box::new(facts), drift }
            })),
            Input::Happened(event) => {
                if matches!(event, Event::Stopped(_))
                    && let Some(step) = self.step.take()
                {
                    step.abort();
                }
                event
            }
        })
    }

    fn act(&mut self, action: Action<Versions>) {
        match action {
            Action::Stage(job) => self.stage(job),
            Action::Check(job, staged) => {
                let check = self.check(&job, staged);
                self.begin(async move { Input::Checked(check.await.map(Box::new)) });
            }
            Action::ListWorkers => {
                let workers = Arc::clone(&self.means.workers);
                self.begin(async move { Input::Happened(Event::Workers(workers.serving().await)) });
            }
            Action::LoadAhead(worker, version) => {
                let (workers, slot) = (Arc::clone(&self.means.workers), self.model.slot);
                let version = version.as_ref().to_owned();
                self.spawn(async move { workers.load_ahead(worker, slot, version).await });
            }
            Action::Loaded { caller, worker, done, of } => {
                if let Some(caller) = self.callers.get(&caller) {
                    // What is not read in time is dropped.
                    let _ = caller.progress.try_send(Step::Loaded { worker, done, of });
                }
            }
            Action::Propose(proposal) => {
                let (coordinator, model) =
                    (Arc::clone(&self.means.coordinator), Arc::clone(&self.model));
                self.begin(async move {
                    let decision = coordinator.propose(&model.name, proposal).await;
                    Input::Happened(Event::Decided(decision))
                });
            }
            Action::Record(generation, version, known) => {
                self.write_record(generation, version, known);
            }
            Action::Commit { generation, record, ahead } => self.commit(generation, record, ahead),
            Action::Answer(id, result) => self.answer(id, result),
            Action::Quarantine(version) => self.quarantine(version),
            Action::AnnounceRollback { from, to } => {
                self.means.metrics.automatic_rollbacks_total.add();
                tracing::error!(model = %self.model.name, failed = from, back_to = to, "workers failed twice in the probation of a generation: going back by itself");
            }
            Action::RollbackFailed(refusal) => {
                tracing::error!(model = %self.model.name, %refusal, "could not go back by itself: the version that failed serves on");
            }
            Action::Forget => {
                let (workers, slot) = (Arc::clone(&self.means.workers), self.model.slot);
                self.spawn(async move { workers.forget(slot).await });
            }
            Action::Drain => self.drain(),
            Action::Unload => self.unload(),
            Action::Retire => self.retire(),
        }
    }

    fn answer(&mut self, id: CallId, result: Result<Committed, Refusal>) {
        let Some(caller) = self.callers.remove(&id) else { return };
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

    /// Runs one step of the update, which is given up when onnxd stops, and tells the machine its
    /// outcome.
    pub(super) fn begin(&mut self, step: impl Future<Output = Input> + Send + 'static) {
        let inputs = self.inputs.clone();
        self.step_start = Instant::now();
        self.step = Some(self.spawn(async move {
            // The task outlives its steps.
            let _ = inputs.send(step.await).await;
        }));
    }

    /// Runs what is done in any case. A panic ends the server: the machine would wait for ever.
    pub(super) fn spawn(&self, step: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let guard = self.means.tasks.guard(format!("an update step of {}", self.model.name));
        tokio::spawn(async move {
            let _guard = guard;
            step.await;
        })
    }

    /// Tells a step to whoever asked for the update that runs.
    fn tell(&self, step: Step) {
        let caller = self.machine.caller().and_then(|id| self.callers.get(&id));
        if let Some(caller) = caller {
            let _ = caller.progress.try_send(step);
        }
    }
}
