//! Answers the items of a group for text models: prepares them, runs them in micro-batches and
//! converts the outputs to what each item requests.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use onnxd_proto::{
    domain::Task,
    generation::Generation,
    limits::FRAME_PAYLOAD_BYTES_MAX,
    wire::operation::{self, AnsweredItem, Item, Operation, Rejection, TextOperation, TextOutput},
};
use zerocopy::IntoBytes;

use super::{
    files::task::named_labels,
    microbatch,
    model::TextModel,
    prepare::{Content, Prepared, TextRequest},
    readout::{Numbers, Rows},
    stages::{entities, pooling, splade},
};
use crate::{
    artifacts::costs::{Batching, Costs},
    families::group::{Group, Timings, malformed, number},
    process::{cpu_time::CpuTime, fault::Fault},
    session::SessionError,
};

/// An item that is prepared for a run.
struct Ready {
    item: u32,
    prepared: Prepared,
    output: TextOutput,
}

impl Ready {
    fn rows(&self, task: Task) -> Rows {
        match (self.output, task) {
            // For multi-vector models, token vectors are the pooled result.
            (TextOutput::TokenEmbeddings, Task::Embed) => Rows::Tokens,
            _ => Rows::Pooled,
        }
    }

    /// What items must have in common to run together.
    fn batch_key(&self) -> (usize, &[i64], bool) {
        let is_large = matches!(self.output, TextOutput::TokenEmbeddings | TextOutput::Entities(_));
        (self.prepared.route, &self.prepared.switches, is_large)
    }
}

/// Answers all items of a group.
pub(super) fn answer(
    group: &mut Group<'_>,
    parts: &[&[u8]],
    generation: Generation,
    (model, costs): (&mut TextModel, &mut Costs),
) -> Result<(), Fault> {
    let (table, batching) = (costs.table.clone(), costs.batching);
    let mut answering = Answering { group, generation, model, costs, numbers: Numbers::default() };
    let started = Instant::now();
    let mut ready = answering.prepare(parts)?;
    let tokenizing = started.elapsed();
    ready.sort_by(|a, b| a.batch_key().cmp(&b.batch_key()));
    for alike in ready.chunk_by(|a, b| a.batch_key() == b.batch_key()) {
        let (route, _, is_large) = alike[0].batch_key();
        if answering.model.is_table(route) {
            let batch: Vec<&Ready> = alike.iter().collect();
            answering.run(&batch, tokenizing)?;
            continue;
        }
        let lengths: Vec<usize> = alike.iter().map(|item| item.prepared.tokens.ids.len()).collect();
        // Token vectors are large: those of one text can fill a frame.
        let batching = if is_large { Batching::Separate } else { batching };
        let tokens_max = answering.model.tokens_max();
        for indices in microbatch::plan_within(&lengths, &table, batching, tokens_max) {
            let batch: Vec<&Ready> = indices.iter().map(|&index| &alike[index]).collect();
            answering.run(&batch, tokenizing)?;
        }
    }
    Ok(())
}

struct Answering<'g, 's, 'm> {
    group: &'g mut Group<'s>,
    generation: Generation,
    model: &'m mut TextModel,
    costs: &'m mut Costs,
    /// Reused across micro-batches.
    numbers: Numbers,
}

impl Answering<'_, '_, '_> {
    /// Returns the items that need a run, and answers or rejects the others.
    fn prepare(&mut self, parts: &[&[u8]]) -> Result<Vec<Ready>, Fault> {
        let mut ready = Vec::with_capacity(parts.len());
        let request = self.group.request;
        for (index, (Item { operation, .. }, part)) in request.items.iter().zip(parts).enumerate() {
            let item = number(index);
            let outcome = match operation {
                Operation::Text { text, output } => {
                    let prepared = self.prepare_one(text, *output, part)?;
                    prepared.map(|prepared| ready.push(Ready { item, prepared, output: *output }))
                }
                Operation::Tokenize { prompt, special } => {
                    let text = utf8(part)?;
                    self.list(item, text, prompt.as_deref(), *special)?
                }
                Operation::Decode { skip_special } => {
                    match self.model.tokenizer().decode(&ids(part)?, *skip_special) {
                        Ok(text) if text.len() <= FRAME_PAYLOAD_BYTES_MAX => {
                            Ok(self.send_bytes(item, text.as_bytes())?)
                        }
                        Ok(_) => Err(Rejection::Tokenizer(
                            "the decoded text is too long for one response".into(),
                        )),
                        Err(rejection) => Err(rejection),
                    }
                }
                Operation::Tensors { .. } => Err(Rejection::WrongTask(self.task())),
            };
            if let Err(rejection) = outcome {
                self.group.reject(vec![item], rejection)?;
            }
        }
        Ok(ready)
    }

    fn task(&self) -> Task {
        self.model.settings().task
    }

    fn prepare_one(
        &self,
        operation: &TextOperation,
        output: TextOutput,
        part: &[u8],
    ) -> Result<Result<Prepared, Rejection>, Fault> {
        let content = match operation.content {
            operation::Content::Text => Content::Text(utf8(part)?),
            operation::Content::Pair { first_bytes, cut } => {
                let length = usize::try_from(first_bytes).unwrap_or(usize::MAX);
                let pair = part.split_at_checked(length);
                let (first, second) =
                    pair.ok_or_else(|| malformed("declares a first text that exceeds its item"))?;
                Content::Pair(utf8(first)?, utf8(second)?, cut)
            }
            operation::Content::Ids => Content::Ids(ids(part)?),
        };
        let request = TextRequest {
            content,
            prompt: operation.prompt.as_deref(),
            role: operation.role,
            switches: &operation.switches,
            truncate: operation.truncate,
        };
        Ok(self.allow(output).and_then(|()| self.model.prepare(&request)))
    }

    /// Checks that the model provides the requested output.
    fn allow(&self, output: TextOutput) -> Result<(), Rejection> {
        if !output.is_supported_by(self.task()) {
            return Err(Rejection::WrongTask(self.task()));
        }
        match output {
            TextOutput::TokenEmbeddings if !self.model.has_token_vectors() => {
                Err(Rejection::Inference(
                    "this model pools inside its graph and has no token embeddings".into(),
                ))
            }
            TextOutput::Embedding { dimensions: Some(requested), .. } => {
                let max = number(self.model.dimension());
                match requested == 0 || requested > max {
                    true => Err(Rejection::Dimensions { requested, max }),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn list(
        &mut self,
        item: u32,
        text: &str,
        prompt: Option<&str>,
        special: bool,
    ) -> Result<Result<(), Rejection>, Fault> {
        let prompted = self.model.preparation.prompted(text, prompt);
        let listed = prompted.and_then(|text| self.model.tokenizer().list(&text, special));
        Ok(match listed {
            Ok(tokens) => {
                let json = serde_json::to_vec(&tokens).expect("tokens are valid JSON");
                match json.len() <= FRAME_PAYLOAD_BYTES_MAX {
                    true => Ok(self.send_bytes(item, &json)?),
                    false => Err(Rejection::Tokenizer(
                        "the list of tokens is too long for one response".into(),
                    )),
                }
            }
            Err(rejection) => Err(rejection),
        })
    }

    /// Answers an item that needs no run.
    fn send_bytes(&mut self, item: u32, bytes: &[u8]) -> Result<(), Fault> {
        let answered =
            AnsweredItem { item, tokens: 0, bytes: number(bytes.len()), outputs: Vec::new() };
        self.group.send(self.generation, vec![answered], Timings::default(), &[bytes])
    }

    fn run(&mut self, batch: &[&Ready], tokenizing: Duration) -> Result<(), Fault> {
        let started = Instant::now();
        let mut numbers = std::mem::take(&mut self.numbers);
        let cpu = match self.compute(batch, &mut numbers) {
            Ok(cpu) => cpu,
            Err(error) => {
                let items = batch.iter().map(|item| item.item).collect();
                return self.group.reject(items, Rejection::Inference(error.to_string()));
            }
        };
        let mut items = Vec::with_capacity(batch.len());
        let mut parts: Vec<Cow<'_, [u8]>> = Vec::with_capacity(batch.len());
        let lengths = numbers.lengths.clone();
        let mut rest = &mut numbers.values[..];
        for (ready, length) in batch.iter().zip(lengths) {
            let (values, others) = rest.split_at_mut(length);
            rest = others;
            match finish(values, ready, self.model) {
                Ok(part) => {
                    let (item, tokens) = (ready.item, number(ready.prepared.tokens.ids.len()));
                    let (bytes, outputs) = (number(part.len()), Vec::new());
                    items.push(AnsweredItem { item, tokens, bytes, outputs });
                    parts.push(part);
                }
                Err(message) => {
                    let reason = Rejection::Inference(message.into());
                    self.group.reject(vec![ready.item], reason)?;
                }
            }
        }
        if !items.is_empty() {
            let took = Timings { tokenizing, inference: started.elapsed(), cpu };
            let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
            self.group.send(self.generation, items, took, &parts)?;
        }
        self.numbers = numbers;
        Ok(())
    }

    /// Runs a micro-batch; returns the CPU time of this thread.
    fn compute(
        &mut self,
        batch: &[&Ready],
        numbers: &mut Numbers,
    ) -> Result<Duration, SessionError> {
        let texts: Vec<&Prepared> = batch.iter().map(|item| &item.prepared).collect();
        let rows = batch[0].rows(self.task());
        let cpu_start = CpuTime::now();
        let is_wide = self.group.request.wide;
        if is_wide && self.model.run_wide(&texts, rows, numbers).is_some() {
            return Ok(cpu_start.elapsed());
        }
        let cpu_start = CpuTime::now();
        self.model.run(&texts, rows, numbers)?;
        let took = cpu_start.elapsed();
        // Each run refines the cost estimates.
        if !self.model.is_table(texts[0].route) {
            let longest = texts.iter().map(|text| text.tokens.ids.len()).max().unwrap_or(0);
            self.costs.table.observe(texts.len(), longest, took.as_secs_f32() * 1e6);
        }
        Ok(took)
    }
}

/// Converts the numbers of an item to the requested output, or returns why that is impossible. NaN
/// is an error: JSON cannot represent it, and one such vector corrupts a vector index.
fn finish<'v>(
    values: &'v mut [f32],
    ready: &Ready,
    model: &TextModel,
) -> Result<Cow<'v, [u8]>, &'static str> {
    let mut length = values.len();
    if let TextOutput::Embedding { normalize, dimensions } = ready.output {
        length = dimensions.map_or(length, |dimensions| length.min(dimensions as usize));
        if normalize.unwrap_or(model.normalizes(ready.prepared.route)) {
            pooling::normalize(&mut values[..length]);
        }
    }
    let values = &values[..length];
    if !values.iter().all(|value| value.is_finite()) {
        return Err("the model's output is not finite");
    }
    let bytes: Cow<'v, [u8]> = match ready.output {
        TextOutput::Sparse => splade::entries(values).into(),
        TextOutput::Entities(aggregation) => {
            let tokens = ready.prepared.tokens.ids.len();
            let labels = model.settings().labels.clone();
            let labels = named_labels(labels, values.len() / tokens, model.model_file());
            let labels = labels.map_err(
                |_| "the number of labels in config.json differs from that of the model's output",
            )?;
            let join = |tokens: &[String]| model.tokenizer().join(tokens);
            let pieces = &ready.prepared.pieces;
            let found = entities::find(pieces, values, &labels, aggregation, join);
            serde_json::to_vec(&found).expect("entities are valid JSON").into()
        }
        _ => values.as_bytes().into(),
    };
    match bytes.len() <= FRAME_PAYLOAD_BYTES_MAX {
        true => Ok(bytes),
        false => Err("the model's output is too large for one response"),
    }
}

fn utf8(part: &[u8]) -> Result<&str, Fault> {
    str::from_utf8(part).map_err(|_| malformed("contains a text that is not UTF-8"))
}

fn ids(part: &[u8]) -> Result<Vec<u32>, Fault> {
    let (ids, rest) = part.as_chunks::<4>();
    match rest.is_empty() {
        true => Ok(ids.iter().map(|id| u32::from_le_bytes(*id)).collect()),
        false => Err(malformed("contains an incomplete token id")),
    }
}
