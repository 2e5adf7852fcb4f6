//! What a handler calls: hands the texts of one request in, waits for all answers, and sees to it
//! that one response has one generation. If a commit falls between the parts of a request, the
//! older parts are run again; if that happens again, all of it is run as one group.

use std::{
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use onnxd_proto::{
    control_page::Slot,
    generation::Generation,
    message::{EmbedItem, Rejection},
};
use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};

use super::{Backlog, Embedded, Event, Item, ItemError, Timing};
use crate::counters::Counters;

/// The soonest and the latest that a refused client is told to come back.
const RETRY_AFTER: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(30);
/// How often the older parts of a response are run again apart before all of it is run together.
const PARTIAL_RERUNS_MAX: u32 = 2;

/// One text and how it is to be embedded.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    /// UTF-8.
    pub text: Bytes,
    /// Scale to length 1; `None` does what the model says.
    pub normalize: Option<bool>,
    /// Cut a text that is too long.
    pub truncate: bool,
}

/// The embeddings of one request, all of one generation.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What made all of them.
    pub generation: Generation,
    /// Little-endian f32, in the order of the inputs.
    pub embeddings: Vec<Bytes>,
    /// Tokens that were computed, for all inputs.
    pub tokens: u64,
    /// Of the input that took longest in each.
    pub timing: Timing,
}

/// Why a request has no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum GatherError {
    /// The queue is full.
    #[error("the server is overloaded: {limit} inputs may wait, and as many do")]
    Overloaded {
        /// Texts that may wait or be computed at once.
        limit: usize,
        /// When there will be room again.
        retry_after: Duration,
    },
    /// The deadline has passed.
    #[error("the request took longer than {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// No worker is left, or the server stops.
    #[error("no worker is left to answer")]
    Stopped,
    /// Too many workers ended while they computed one of the inputs.
    #[error("workers ended again and again while they computed this input; it is given up")]
    Poisonous,
    /// One of the inputs cannot be embedded.
    #[error("{}", rejection(.0))]
    Rejected(Rejection),
}

fn rejection(rejection: &Rejection) -> String {
    match rejection {
        Rejection::TooLong { tokens, max } => {
            format!("`inputs` must have at most {max} tokens. Given: {tokens}")
        }
        Rejection::Tokenizer(reason) | Rejection::Inference(reason) => reason.clone(),
        Rejection::NotLoaded(reason) => format!("the model is not loaded: {reason}"),
    }
}

/// The way into the dispatcher.
#[derive(Debug)]
pub(crate) struct Dispatch {
    events: mpsc::Sender<Event>,
    places: Arc<Semaphore>,
    counters: Arc<Counters>,
    limits: Limits,
    backlog: Arc<Backlog>,
}

/// What a request may ask of the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Texts that may wait or be computed at once.
    pub items: usize,
    /// From a request's body to its answer. A request may ask for less.
    pub timeout: Duration,
}

impl Dispatch {
    /// A way into the dispatcher that reads `events`.
    pub(crate) fn new(
        events: mpsc::Sender<Event>,
        counters: Arc<Counters>,
        limits: Limits,
        backlog: Arc<Backlog>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(limits.items));
        Self { events, places, counters, limits, backlog }
    }

    /// Texts that may wait or be computed at once.
    pub(crate) fn items_max(&self) -> usize {
        self.limits.items
    }

    /// How long a request may take that asks for `asked`.
    pub(crate) fn time_allowed(&self, asked: Option<Duration>) -> Duration {
        asked.map_or(self.limits.timeout, |asked| asked.min(self.limits.timeout))
    }

    /// Embeds all inputs, in one generation, within `timeout` or the configured time if that is
    /// shorter.
    ///
    /// # Errors
    /// The first reason why there is no answer for all of them.
    pub(crate) async fn embed(
        &self,
        slot: Slot,
        inputs: Vec<Input>,
        timeout: Option<Duration>,
    ) -> Result<Answer, GatherError> {
        let timeout = self.time_allowed(timeout);
        time::timeout(timeout, self.gather(slot, inputs))
            .await
            .unwrap_or(Err(GatherError::Timeout(timeout)))
    }

    async fn gather(&self, slot: Slot, inputs: Vec<Input>) -> Result<Answer, GatherError> {
        // For all rounds: what has been accepted is answered, also if it has to be run again.
        let places = self.places(inputs.len())?;
        let queued_at = Instant::now();
        let mut answers: Vec<Option<Embedded>> = vec![None; inputs.len()];
        let mut wanted: Vec<usize> = (0..inputs.len()).collect();
        let mut round = 0;
        loop {
            let together = round > PARTIAL_RERUNS_MAX;
            let wanted_now = wanted.iter().map(|&index| (index, inputs[index].clone()));
            let (reply, replies) = mpsc::channel(wanted.len());
            let item = |(index, input): (usize, Input)| {
                let Input { text, normalize, truncate } = input;
                let text_bytes = u32::try_from(text.len()).expect("texts are shorter than 4 GiB");
                let options = EmbedItem { text_bytes, normalize, truncate };
                let (reply, _permit) = (reply.clone(), Arc::clone(&places));
                Item { slot, text, options, index, queued_at, together, reply, _permit }
            };
            let items = wanted_now.map(item).collect();
            drop(reply);
            for (index, embedded) in self.run(items, replies).await? {
                answers[index] = Some(embedded);
            }
            let answers = answers.iter().flatten();
            let newest = answers.clone().map(|answer| answer.generation).max().unwrap_or(0);
            let older = |answer: &Embedded| answer.generation != newest;
            if !answers.clone().any(older) {
                return Ok(answer(newest, answers.cloned().collect()));
            }
            round += 1;
            wanted = match round > PARTIAL_RERUNS_MAX {
                true => (0..inputs.len()).collect(),
                false => (0..).zip(answers).filter(|(_, a)| older(a)).map(|(i, _)| i).collect(),
            };
            wanted.iter().for_each(|_| self.counters.items_regenerated_total.add());
        }
    }

    /// Room for so many texts.
    fn places(&self, count: usize) -> Result<Arc<OwnedSemaphorePermit>, GatherError> {
        let wanted = u32::try_from(count).unwrap_or(u32::MAX);
        let places = Arc::clone(&self.places).try_acquire_many_owned(wanted);
        places.map(Arc::new).map_err(|_| {
            self.counters.requests_overloaded_total.add();
            let retry_after = self.backlog.read().clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end());
            GatherError::Overloaded { limit: self.limits.items, retry_after }
        })
    }

    /// Runs items once; each answer comes with its place.
    async fn run(
        &self,
        items: Vec<Item>,
        mut replies: mpsc::Receiver<(usize, Result<Embedded, ItemError>)>,
    ) -> Result<Vec<(usize, Embedded)>, GatherError> {
        let count = items.len();
        let submitted = self.events.send(Event::Submitted(items)).await;
        submitted.map_err(|_| GatherError::Stopped)?;
        let mut answers = Vec::with_capacity(count);
        for _ in 0..count {
            let (index, outcome) = replies.recv().await.ok_or(GatherError::Stopped)?;
            let embedded = outcome.map_err(|error| match error {
                ItemError::Rejected(rejection) => GatherError::Rejected(rejection),
                ItemError::Poisonous => GatherError::Poisonous,
                ItemError::Stopped => GatherError::Stopped,
            })?;
            answers.push((index, embedded));
        }
        Ok(answers)
    }
}

fn answer(generation: Generation, embedded: Vec<Embedded>) -> Answer {
    let mut timing = Timing::default();
    for Embedded { timing: one, .. } in &embedded {
        timing.queue = timing.queue.max(one.queue);
        timing.tokenize = timing.tokenize.max(one.tokenize);
        timing.infer = timing.infer.max(one.infer);
    }
    let tokens = embedded.iter().map(|one| u64::from(one.tokens)).sum();
    let embeddings = embedded.into_iter().map(|one| one.components).collect();
    Answer { generation, embeddings, tokens, timing }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A way in with room for 100 texts.
    fn dispatch(events: mpsc::Sender<Event>) -> Dispatch {
        let limits = Limits { items: 100, timeout: Duration::from_secs(5) };
        Dispatch::new(events, Arc::default(), limits, Arc::default())
    }

    fn input() -> Input {
        Input { text: Bytes::new(), normalize: None, truncate: true }
    }

    /// Plays a dispatcher whose answers have the given generations, one list for each round.
    async fn served_by(rounds: &[&[Generation]], inputs: usize) -> (Answer, Vec<usize>) {
        let (events, mut incoming) = mpsc::channel(16);
        let dispatch = dispatch(events);
        let rounds: Vec<Vec<Generation>> = rounds.iter().map(|round| round.to_vec()).collect();
        let player = tokio::spawn(async move {
            let mut sizes = Vec::new();
            for round in rounds {
                let Some(Event::Submitted(items)) = incoming.recv().await else { panic!() };
                sizes.push(items.len());
                assert_eq!(items.len(), round.len());
                let together = items[0].together;
                assert!(items.iter().all(|item| item.together == together));
                assert_eq!(together, sizes.len() > 3);
                for (item, generation) in items.into_iter().zip(round) {
                    let components = Bytes::from(vec![u8::try_from(item.index).unwrap(); 4]);
                    let timing = Timing::default();
                    let embedded = Embedded { generation, components, tokens: 1, timing };
                    item.reply.try_send((item.index, Ok(embedded))).unwrap();
                }
            }
            sizes
        });
        let answer = dispatch.embed(0, vec![input(); inputs], None).await.unwrap();
        (answer, player.await.unwrap())
    }

    #[tokio::test]
    async fn a_response_of_one_generation_is_run_once() {
        let (answer, sizes) = served_by(&[&[4, 4, 4]], 3).await;
        assert_eq!((answer.generation, answer.tokens, sizes), (4, 3, vec![3]));
    }

    #[tokio::test]
    async fn parts_of_an_older_generation_are_run_again_and_keep_their_place() {
        let (answer, sizes) = served_by(&[&[1, 2, 1], &[2, 2]], 3).await;
        assert_eq!((answer.generation, sizes), (2, vec![3, 2]));
        let places: Vec<u8> = answer.embeddings.iter().map(|bytes| bytes[0]).collect();
        assert_eq!(places, [0, 1, 2]);
    }

    #[tokio::test]
    async fn under_a_storm_of_commits_a_response_is_at_last_run_as_one_group() {
        let (answer, sizes) = served_by(&[&[1, 2], &[3], &[4], &[9, 9]], 2).await;
        assert_eq!((answer.generation, sizes), (9, vec![2, 1, 1, 2]));
    }

    #[tokio::test]
    async fn a_full_queue_is_an_answer_at_once() {
        let (events, _incoming) = mpsc::channel(16);
        let dispatch = dispatch(events);
        let error = dispatch.embed(0, vec![input(); 101], None).await.unwrap_err();
        let retry_after = Duration::from_millis(50);
        assert_eq!(error, GatherError::Overloaded { limit: 100, retry_after });
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_ask_for_less_time_than_is_allowed_and_not_for_more() {
        let (events, _incoming) = mpsc::channel(16);
        let dispatch = dispatch(events);
        for (asked, given) in [(Some(2), 2), (Some(60), 5), (None, 5)] {
            let error = dispatch.embed(0, vec![input()], asked.map(Duration::from_secs)).await;
            assert_eq!(error.unwrap_err(), GatherError::Timeout(Duration::from_secs(given)));
        }
    }
}
