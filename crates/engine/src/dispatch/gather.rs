//! The entry point for request handlers. Submits the items of one request, waits for all answers
//! and ensures that one response comes from one generation. If a commit lands in the middle of a
//! request, the older parts are rerun. If that keeps happening, the request is rerun as one group;
//! if it is too large for one group, commits wait for it.

use std::{
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use onnxd_proto::{
    control_page::Slot, domain::tensor::TensorHead, generation::Generation,
    limits::GROUP_ITEMS_MAX, wire::operation::Rejection,
};
use thiserror::Error;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time,
};

use crate::dispatch::{
    backlog::Backlog,
    event::Event,
    item::{
        Input, Item, ItemAnswer, ItemError, Phases, Priority, QueuePermits, RequestTerms, Timing,
    },
    progress::RequestProgress,
    worker,
};
use crate::models::registry::Model;
use onnxd_telemetry::metrics::Metrics;

/// Bounds of the retry delay given to rejected clients.
const RETRY_AFTER: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(30);
/// How often only the older parts of a response are rerun before the whole request is rerun
/// together.
const PARTIAL_RERUNS_MAX: u32 = 2;

/// Items of one request that may be queued or running at once. The rest are submitted as answers
/// arrive, so that a large request leaves room for others.
const WINDOW: usize = 256;
/// Items submitted together once the window is full.
const STEP: usize = 32;
/// Background work may use one in this many queue permits; the rest is reserved for interactive
/// work.
const BACKGROUND_DIVISOR: usize = 4;

/// The answers to one request, all from one generation.
#[derive(Debug)]
pub struct Answer {
    /// The generation that produced all answers.
    pub generation: Generation,
    /// In input order.
    pub items: Vec<AnsweredInput>,
    /// Tokens computed for all inputs.
    pub tokens: u64,
    /// The maximum over all inputs, for each phase.
    pub timing: Timing,
    /// The phases of the input that was answered last.
    pub phases: Phases,
}

/// The answer to one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsweredInput {
    /// Numbers, text or tensors, depending on the operation.
    pub bytes: Bytes,
    /// The tensors in `bytes`, if any.
    pub outputs: Vec<TensorHead>,
    /// Tokens computed.
    pub tokens: u32,
}

/// The reason a request failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GatherError {
    /// The queue is full.
    #[error("the server is overloaded: the queue limit of {limit} inputs is reached")]
    Overloaded {
        /// Items of one model that may be queued or running at once.
        limit: usize,
        /// When room is expected again.
        retry_after: Duration,
    },
    /// The deadline has passed.
    #[error("the request took longer than {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// All workers have failed, or the server is stopping.
    #[error("no worker is available")]
    Stopped,
    /// Too many workers died while computing one of the inputs.
    #[error("workers repeatedly died while computing this input; giving up on it")]
    Poisonous,
    /// A worker rejected one of the inputs.
    #[error("{}", rejection(.0))]
    Rejected(Rejection),
}

fn rejection(rejection: &Rejection) -> String {
    match rejection {
        Rejection::TooLong { tokens, max } => {
            format!("`inputs` must have at most {max} tokens. Given: {tokens}")
        }
        Rejection::Tokenizer(reason)
        | Rejection::Inference(reason)
        | Rejection::Tensors(reason)
        | Rejection::Unfit(reason) => reason.clone(),
        Rejection::NotLoaded(reason) => format!("no worker could load the model: {reason}"),
        Rejection::TokenId { id, highest } => {
            format!("the model has no token {id}; the highest token id is {highest}")
        }
        Rejection::Prompt { name, known } if known.is_empty() => {
            format!("the model has no prompt `{name}`; it defines no prompts")
        }
        Rejection::Prompt { name, known } => {
            format!("the model has no prompt `{name}`; available prompts: {known}")
        }
        Rejection::Dimensions { requested, max } => {
            format!("`dimensions` must be from 1 to {max}. Given: {requested}")
        }
        Rejection::WrongTask(task) => format!("the model's task is {}", task.as_str()),
    }
}

/// Submits requests to the dispatcher.
#[derive(Debug)]
pub struct Dispatch {
    events: mpsc::Sender<Event>,
    /// By slot.
    queues: Vec<Queue>,
    metrics: Arc<Metrics>,
    limits: Limits,
    backlog: Arc<Backlog>,
}

/// The queue permits of one model.
#[derive(Debug)]
struct Queue {
    all: Arc<Semaphore>,
    /// The subset of permits that background work may use.
    background: Arc<Semaphore>,
}

/// Limits on queued work.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items of one model that may be queued or running at once.
    pub items: usize,
    /// From the end of a request's body to its answer. A request may ask for less.
    pub timeout: Duration,
}

impl Limits {
    /// Returns how many items of one model and this priority may be queued or running at once.
    fn permits(self, priority: Priority) -> usize {
        match priority {
            Priority::Interactive => self.items,
            Priority::Background => (self.items / BACKGROUND_DIVISOR).max(1),
        }
    }

    /// Returns how many of a request's `items` may be in the queue at once.
    fn window(self, items: usize, priority: Priority) -> usize {
        let half = self.permits(priority) / 2;
        items.min(match priority {
            Priority::Interactive => WINDOW.min(half).max(GROUP_ITEMS_MAX),
            Priority::Background => WINDOW.min(half).max(1),
        })
    }
}

impl Dispatch {
    /// Creates a handle to the dispatcher that reads `events`, with one queue for each of `models`.
    pub fn new(
        events: mpsc::Sender<Event>,
        metrics: Arc<Metrics>,
        limits: Limits,
        backlog: Arc<Backlog>,
        models: usize,
    ) -> Self {
        let semaphore = |priority| Arc::new(Semaphore::new(limits.permits(priority)));
        let queue = |_| Queue {
            all: semaphore(Priority::Interactive),
            background: semaphore(Priority::Background),
        };
        let queues = (0..models).map(queue).collect();
        Self { events, queues, metrics, limits, backlog }
    }

    /// Returns how many items of one model may be queued or running at once.
    pub fn items_max(&self) -> usize {
        self.limits.items
    }

    /// Returns how many items of the model in a slot are queued or running.
    pub fn items_of(&self, slot: Slot) -> usize {
        let available = |queue: &Queue| queue.all.available_permits();
        let queue = self.queues.get(usize::from(slot));
        queue.map_or(0, |queue| self.limits.items.saturating_sub(available(queue)))
    }

    /// Returns the status of all workers; empty if the dispatcher has stopped.
    pub async fn workers(&self) -> Vec<worker::Status> {
        let (reply, answer) = oneshot::channel();
        let _ = self.events.send(Event::StatusRequested(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// Returns the time allowed for a request with the timeout `requested`, capped by the server's
    /// limit.
    pub fn time_allowed(&self, requested: Option<Duration>) -> Duration {
        requested.map_or(self.limits.timeout, |requested| requested.min(self.limits.timeout))
    }

    /// Answers all inputs from one generation, within the time that `terms` and the server allow.
    ///
    /// # Errors
    /// The first error that prevents a complete answer.
    pub async fn run(
        &self,
        model: &Model,
        inputs: Vec<Input>,
        terms: RequestTerms,
    ) -> Result<Answer, GatherError> {
        let timeout = self.time_allowed(terms.timeout);
        let deadline = Instant::now() + timeout;
        let result = time::timeout(timeout, self.gather(model, inputs, (deadline, terms.priority)))
            .await
            .unwrap_or(Err(GatherError::Timeout(timeout)));
        RequestProgress::ended(&result);
        result
    }

    async fn gather(
        &self,
        model: &Model,
        inputs: Vec<Input>,
        (deadline, priority): (Instant, Priority),
    ) -> Result<Answer, GatherError> {
        let window = self.limits.window(inputs.len(), priority);
        // Held for all rounds: an accepted request keeps its permits even if it is rerun.
        let permits = self.acquire(model.slot, window, priority)?;
        let mut answers: Vec<Option<ItemAnswer>> = vec![None; inputs.len()];
        let mut pending: Vec<usize> = (0..inputs.len()).collect();
        let (mut round, mut together, mut _commit_block) = (0, false, None);
        let now = Instant::now();
        let mut phases = Phases { queued_at: now, timing: Timing::default(), answered_at: now };
        loop {
            let permits = Arc::clone(&permits);
            let slot = model.slot;
            let run = Run { slot, window, together, deadline, priority, permits };
            for (index, answered) in self.run_once(&run, &inputs, &pending).await? {
                (phases.queued_at, phases.timing) = (answered.queued_at, answered.timing);
                answers[index] = Some(answered);
            }
            let answers = answers.iter().flatten();
            let newest = answers.clone().map(|answer| answer.generation).max().unwrap_or(0);
            let older = |answer: &ItemAnswer| answer.generation != newest;
            if !answers.clone().any(older) {
                phases.answered_at = Instant::now();
                return Ok(answer(newest, answers.cloned().collect(), phases));
            }
            round += 1;
            if round > PARTIAL_RERUNS_MAX {
                // Background work neither runs as one large group nor blocks commits: it is rerun
                // until its deadline.
                let interactive = priority == Priority::Interactive;
                together = inputs.len() <= GROUP_ITEMS_MAX && interactive;
                if !together && interactive && _commit_block.is_none() {
                    _commit_block = Some(model.block_commits().await);
                }
            }
            pending = match together {
                true => (0..inputs.len()).collect(),
                false => (0..).zip(answers).filter(|(_, a)| older(a)).map(|(i, _)| i).collect(),
            };
            pending.iter().for_each(|_| self.metrics.items_regenerated_total.increment());
        }
    }

    /// Acquires queue permits for `count` items.
    fn acquire(
        &self,
        slot: Slot,
        count: usize,
        priority: Priority,
    ) -> Result<Arc<QueuePermits>, GatherError> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let queue = &self.queues[usize::from(slot)];
        let full = |limit| {
            self.metrics.requests_overloaded_total.increment();
            let backlog = self.backlog.read(priority);
            let retry_after = backlog.clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end());
            GatherError::Overloaded { limit, retry_after }
        };
        let take = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_many_owned(count);
        let share = match priority {
            Priority::Interactive => None,
            Priority::Background => {
                Some(take(&queue.background).map_err(|_| full(self.limits.permits(priority)))?)
            }
        };
        let queue = take(&queue.all).map_err(|_| full(self.limits.items))?;
        Ok(Arc::new(QueuePermits { _queue: queue, _share: share }))
    }

    /// Runs the pending inputs once and returns each answer with its input's index.
    async fn run_once(
        &self,
        run: &Run,
        inputs: &[Input],
        pending: &[usize],
    ) -> Result<Vec<(usize, ItemAnswer)>, GatherError> {
        let (reply, mut replies) = mpsc::channel(pending.len().max(1));
        let mut answers = Vec::with_capacity(pending.len());
        let (first, mut rest) = pending.split_at(run.window.min(pending.len()));
        self.submit(run, inputs, first, &reply).await?;
        // Each answer makes room for another item.
        let step = STEP.min(first.len());
        let mut answered_since = 0;
        while answers.len() < pending.len() {
            let (index, outcome) = replies.recv().await.ok_or(GatherError::Stopped)?;
            let answered = outcome.map_err(|error| match error {
                ItemError::Rejected(rejection) => GatherError::Rejected(rejection),
                ItemError::Poisonous => GatherError::Poisonous,
                ItemError::Stopped => GatherError::Stopped,
            })?;
            answers.push((index, answered));
            answered_since += 1;
            if answered_since >= step && !rest.is_empty() {
                let (next, later) = rest.split_at(answered_since.min(rest.len()));
                self.submit(run, inputs, next, &reply).await?;
                (answered_since, rest) = (0, later);
            }
        }
        Ok(answers)
    }

    async fn submit(
        &self,
        run: &Run,
        inputs: &[Input],
        pending: &[usize],
        reply: &mpsc::Sender<(usize, Result<ItemAnswer, ItemError>)>,
    ) -> Result<(), GatherError> {
        let queued_at = Instant::now();
        let progress = RequestProgress::submitted(queued_at);
        let item = |&index: &usize| Item {
            slot: run.slot,
            input: inputs[index].clone(),
            index,
            queued_at,
            deadline: run.deadline,
            priority: run.priority,
            together: run.together,
            progress: progress.clone(),
            reply: reply.clone(),
            _permits: Arc::clone(&run.permits),
        };
        let items = pending.iter().map(item).collect();
        let submitted = self.events.send(Event::Submitted(items)).await;
        submitted.map_err(|_| GatherError::Stopped)
    }
}

/// The properties that all items of one round share.
struct Run {
    slot: Slot,
    window: usize,
    together: bool,
    deadline: Instant,
    priority: Priority,
    permits: Arc<QueuePermits>,
}

fn answer(generation: Generation, answered: Vec<ItemAnswer>, phases: Phases) -> Answer {
    let mut timing = Timing::default();
    for ItemAnswer { timing: one, .. } in &answered {
        timing.queue = timing.queue.max(one.queue);
        timing.tokenize = timing.tokenize.max(one.tokenize);
        timing.infer = timing.infer.max(one.infer);
    }
    let tokens = answered.iter().map(|one| u64::from(one.tokens)).sum();
    let item = |one: ItemAnswer| {
        let ItemAnswer { bytes, outputs, tokens, .. } = one;
        AnsweredInput { bytes, outputs, tokens }
    };
    let items = answered.into_iter().map(item).collect();
    Answer { generation, items, tokens, timing, phases }
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
