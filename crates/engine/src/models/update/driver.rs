//! Carries out the actions of a model's [machine](crate::models::machine): one task per model stages,
//! checks, loads ahead, records and commits, and reports progress to callers. Decides nothing.

use std::{collections::HashMap, future::Future, sync::Arc, time::Instant};

use onnxd_proto::domain::{Checked, Outcome, Refusal, Step};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::clock::sleep_until;
use crate::models::{
    gate::Presence,
    indexes::{Fence, IndexProgress},
    machine::{
        UpdateMachine,
        events::{Action, CallId, Committed, Content, Event, Job},
    },
    registry::Model,
    update::{
        Deps, Progress, UpdateHandle,
        index::Indexing,
        payload::{CheckedFacts, Versions},
        resolve::ResolvedContent,
        spans::UpdateSpans,
    },
};
use onnxd_proto::domain::Load;

/// Maximum queued inputs of one task.
const INPUTS_MAX: usize = 1024;

/// An input of the task: a call, a worker event, or the result of a step.
#[derive(Debug)]
pub(super) enum Input {
    Called(CallId, Job, Caller),
    LoadRequested(CallId, Load, Caller),
    Event(Event<Versions>),
    /// Start no new update, and reply once none is running.
    Hold(oneshot::Sender<()>),
    /// End running and waiting updates, and reply how many calls that ended. Called at this time.
    Cancel(Instant, oneshot::Sender<Result<usize, Refusal>>),
    Staging {
        bytes: u64,
        of: u64,
    },
    /// Staging has come to this step.
    StagingStep(&'static str),
    Staged(Result<Box<ResolvedContent>, Refusal>),
    Passed(String),
    Checked(Result<Box<Checked>, Refusal>),
    /// How far the indexes are.
    Indexing(IndexProgress),
    Indexed(Result<Fence, Refusal>),
    /// The result of the step with this number.
    Step(u64, Box<Input>),
}

/// A caller that requested an update.
#[derive(Debug)]
pub(super) struct Caller {
    pub progress: Progress,
    pub answer: oneshot::Sender<Result<Outcome, Refusal>>,
    pub start: Instant,
}

/// A running step of an update.
pub(super) struct RunningStep {
    number: u64,
    task: JoinHandle<()>,
}

/// The update task of one model.
pub(super) struct Driver {
    pub(super) machine: UpdateMachine<Versions>,
    pub(super) model: Arc<Model>,
    pub(super) deps: Deps,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) callers: HashMap<CallId, Caller>,
    /// The running step, which is aborted when onnxd stops or the machine says so.
    pub(super) step: Option<RunningStep>,
    /// Counts steps.
    pub(super) steps: u64,
    pub(super) step_start: Instant,
    /// Callers of [`Input::Hold`] that wait until no update runs.
    pub(super) idle_waiters: Vec<oneshot::Sender<()>>,
    pub(super) indexing: Indexing,
    spans: UpdateSpans,
}

impl Driver {
    /// Starts the task, which runs for the server's lifetime.
    pub(super) fn start(
        machine: UpdateMachine<Versions>,
        model: Arc<Model>,
        deps: Deps,
    ) -> UpdateHandle {
        let (inputs, queue) = mpsc::channel(INPUTS_MAX);
        let driver = Self {
            spans: UpdateSpans::new(deps.tracer.clone(), model.name.as_str()),
            machine,
            model,
            deps,
            inputs: inputs.clone(),
            callers: HashMap::new(),
            step: None,
            steps: 0,
            step_start: Instant::now(),
            idle_waiters: Vec::new(),
            indexing: Indexing::default(),
        };
        let name = format!("updates of {}", driver.model.name);
        driver.deps.tasks.clone().spawn(name, driver.run(queue));
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
                () = sleep_until(deadline) => Input::Event(Event::Ticked),
            };
            let actions = match input {
                Input::Cancel(called, reply) => {
                    let (result, actions) = self.machine.cancel(Instant::now(), called);
                    // The caller may have disconnected.
                    let _ = reply.send(result);
                    actions
                }
                input => match self.translate(input) {
                    Some(event) => self.machine.handle(Instant::now(), event),
                    None => continue,
                },
            };
            let presence = self.machine.presence();
            // Close the gate before the actions run, and open it only once the generation serves: see
            // `commit`.
            if presence != Presence::Loaded {
                self.model.gate.set(presence);
            }
            for action in actions {
                let is_commit = matches!(action, Action::Commit { .. });
                if is_commit {
                    self.model.wait_for_commit_blocks().await;
                }
                self.act(action);
                if is_commit {
                    self.machine.published(Instant::now());
                }
            }
            self.model.gate.set(presence);
            if !self.machine.holds_writes() {
                self.indexing.fence = None;
            }
            if self.machine.is_idle() {
                self.spans.end();
                for waiter in self.idle_waiters.drain(..) {
                    // The receiver may have been dropped.
                    let _ = waiter.send(());
                }
            }
        }
    }

    /// Turns an input into an event of the machine, or reports it to callers if the machine needs none.
    fn translate(&mut self, input: Input) -> Option<Event<Versions>> {
        let seconds = self.step_start.elapsed().as_secs_f64();
        Some(match input {
            Input::Called(id, job, caller) => {
                self.callers.insert(id, caller);
                Event::Called(id, job)
            }
            Input::LoadRequested(id, load, caller) => {
                self.callers.insert(id, caller);
                Event::LoadRequested(id, load)
            }
            Input::Hold(waiter) => {
                self.idle_waiters.push(waiter);
                Event::Paused
            }
            // Handled by `run`.
            Input::Cancel(..) => return None,
            Input::Staging { bytes, of } => {
                self.report(Step::Staging { bytes, of });
                return None;
            }
            Input::StagingStep(name) => {
                self.spans.step(name);
                return None;
            }
            Input::Passed(part) => {
                self.report(Step::Passed { part });
                return None;
            }
            Input::Indexing(progress) => {
                self.report_indexing(progress);
                return None;
            }
            Input::Indexed(result) => Event::Indexed(self.indexed(result)),
            Input::Staged(resolved) => Event::Staged(resolved.map(|resolved| {
                let ResolvedContent { candidate, bytes } = *resolved;
                match &candidate.content {
                    Content::Unchecked(_) => {}
                    Content::Checked(checked) => self.indexing.found(&checked.facts, None),
                    Content::Durable(generation, record) => {
                        self.indexing.found(&record.facts, None);
                        tracing::info!(model = %self.model.name, generation, "restoring last committed generation");
                    }
                }
                if bytes > 0 {
                    let version = candidate.version.as_ref().to_owned();
                    self.report(Step::Staged { version, bytes, seconds });
                }
                candidate
            })),
            Input::Checked(checked) => Event::Checked(checked.map(|checked| {
                let Checked { facts, drift, not_compiled, .. } = *checked;
                let dimension = facts.dimension;
                self.report(Step::Checked { dimension, drift, not_compiled, seconds });
                self.indexing.found(&facts, drift);
                CheckedFacts { facts: Box::new(facts), drift }
            })),
            Input::Step(number, result) => {
                // The result of an aborted step may have been on its way.
                self.step.take_if(|step| step.number == number)?;
                return self.translate(*result);
            }
            Input::Event(event) => {
                if matches!(event, Event::Stopped(_)) {
                    self.abort_step();
                }
                event
            }
        })
    }

    fn act(&mut self, action: Action<Versions>) {
        match action {
            Action::Stage(job) => {
                self.spans.begin(self.machine.caller());
                self.stage(job);
            }
            Action::AbortStep => self.abort_step(),
            Action::Check(job, staged) => {
                self.spans.step("check");
                let check = self.check(&job, staged);
                self.begin(async move { Input::Checked(check.await.map(Box::new)) });
            }
            Action::ListWorkers => {
                self.spans.step("load");
                let workers = Arc::clone(&self.deps.workers);
                self.begin(async move { Input::Event(Event::Workers(workers.serving().await)) });
            }
            Action::LoadAhead(worker, version) => {
                let (workers, slot) = (Arc::clone(&self.deps.workers), self.model.slot);
                let version = version.as_ref().to_owned();
                self.spawn(async move { workers.load_ahead(worker, slot, version).await });
            }
            Action::Loaded { caller, worker, done, of } => {
                if let Some(caller) = self.callers.get(&caller) {
                    // A caller that does not read in time misses the step.
                    let _ = caller.progress.try_send(Step::Loaded { worker, done, of });
                }
            }
            Action::Index(job, version) => {
                self.spans.step("index");
                self.index(&job, version);
            }
            Action::Propose(proposal) => {
                self.spans.step("record");
                let (coordinator, model) =
                    (Arc::clone(&self.deps.coordinator), Arc::clone(&self.model));
                self.begin(async move {
                    let decision = coordinator.propose(&model.name, proposal).await;
                    Input::Event(Event::Decided(decision))
                });
            }
            Action::Record(generation, version, checked) => {
                self.write_record(generation, version, checked);
            }
            Action::Commit { generation, record, ahead } => {
                self.spans.step("commit");
                self.spans.commits(generation, &record.version);
                self.commit(generation, record, ahead);
            }
            Action::Answer(id, result) => {
                self.spans.answers(id, result.as_ref().err());
                self.answer(id, result);
            }
            Action::Quarantine(version) => self.quarantine(version),
            Action::AnnounceRollback { from, to } => {
                self.deps.metrics.automatic_rollbacks_total.increment();
                tracing::error!(model = %self.model.name, failed = from, back_to = to, "workers failed twice during probation; rolling back automatically");
            }
            Action::RollbackFailed(refusal) => {
                tracing::error!(model = %self.model.name, %refusal, "automatic rollback failed; the faulty version is still serving");
            }
            Action::DropLoadedAhead => {
                let (workers, slot) = (Arc::clone(&self.deps.workers), self.model.slot);
                self.spawn(async move { workers.drop_loaded_ahead(slot).await });
            }
            Action::Drain => self.drain(),
            Action::Unload => self.unload(),
            Action::Retire { with_indexes } => self.retire(with_indexes),
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
        // The caller may have disconnected.
        let _ = caller.answer.send(outcome);
    }

    /// Runs one step of the update and feeds its result to the machine, unless the step is aborted.
    pub(super) fn begin(&mut self, step: impl Future<Output = Input> + Send + 'static) {
        let inputs = self.inputs.clone();
        self.step_start = Instant::now();
        self.steps += 1;
        let number = self.steps;
        let task = self.spawn(async move {
            // Cannot fail: the task outlives its steps.
            let _ = inputs.send(Input::Step(number, Box::new(step.await))).await;
        });
        self.step = Some(RunningStep { number, task });
    }

    fn abort_step(&mut self) {
        if let Some(step) = self.step.take() {
            step.task.abort();
            self.end_indexing();
        }
    }

    /// Runs work to the end, even when onnxd stops. A panic ends the server, since the machine would wait forever.
    pub(super) fn spawn(&self, step: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let guard = self.deps.tasks.guard(format!("an update step of {}", self.model.name));
        tokio::spawn(async move {
            let _guard = guard;
            step.await;
        })
    }

    /// Reports a step to the caller of the running update.
    pub(super) fn report(&self, step: Step) {
        let caller = self.machine.caller().and_then(|id| self.callers.get(&id));
        if let Some(caller) = caller {
            let _ = caller.progress.try_send(step);
        }
    }
}
