//! One dispatch group: the texts that one frame brought, answered exactly once each, by one
//! generation. Each micro-batch is answered as it completes, so that short texts do not wait for
//! long ones.

use std::time::{Duration, Instant};

use onnxd_proto::{
    limits::GROUP_ITEMS_MAX,
    message::{EmbedItem, EmbeddedItem, Embeddings, FromWorker, Rejection},
};
use zerocopy::IntoBytes;

use crate::{
    cpu_time::CpuTime, fault::Fault, ipc::Sender, microbatch, model::Serving, pooling,
    session::SessionError, tokenize::Tokens, version::LoadedVersion,
};

// Embeddings travel little-endian, and are sent as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"));

/// The texts of a group. Cuts the payload at the lengths that the items name.
///
/// # Errors
/// The frame is not one that a supervisor sends.
pub(crate) fn texts<'p>(items: &[EmbedItem], mut payload: &'p [u8]) -> Result<Vec<&'p str>, Fault> {
    let broken = |what: &str| Fault::Protocol(format!("a group {what}"));
    if items.len() > GROUP_ITEMS_MAX {
        return Err(broken("has more items than the limit"));
    }
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        let length = usize::try_from(item.text_bytes).unwrap_or(usize::MAX);
        let Some((text, rest)) = payload.split_at_checked(length) else {
            return Err(broken("names more bytes of text than it brings"));
        };
        texts.push(str::from_utf8(text).map_err(|_| broken("brings a text that is not UTF-8"))?);
        payload = rest;
    }
    if payload.is_empty() { Ok(texts) } else { Err(broken("brings more bytes than it names")) }
}

/// What the frame of a group asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The frame's id.
    pub(crate) id: u64,
    pub(crate) items: Vec<EmbedItem>,
    /// Whether it may be spread over several CPUs.
    pub(crate) wide: bool,
}

/// A group that is being answered.
pub(crate) struct Group<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) sender: &'a Sender,
}

/// An item that has been tokenized.
struct Ready {
    item: u32,
    tokens: Tokens,
    normalize: bool,
}

impl Group<'_> {
    /// Embeds `texts`, one per item, with what is loaded.
    pub(crate) fn answer(
        &mut self,
        texts: &[&str],
        serving: &mut Serving<LoadedVersion>,
    ) -> Result<(), Fault> {
        let started = Instant::now();
        let ready = self.tokenize(texts, &serving.content)?;
        let tokenizing = started.elapsed();
        let lengths: Vec<usize> = ready.iter().map(|item| item.tokens.ids.len()).collect();
        let costs = serving.content.costs();
        for places in microbatch::plan(&lengths, &costs.table, costs.company) {
            let batch: Vec<&Ready> = places.iter().map(|&place| &ready[place]).collect();
            self.run(&batch, tokenizing, serving)?;
        }
        Ok(())
    }

    /// Rejects all items, as nothing can embed them.
    pub(crate) fn reject_all(&mut self, reason: Rejection) -> Result<(), Fault> {
        self.reject((0..self.asked.items.len()).map(number).collect(), reason)
    }

    fn tokenize(&mut self, texts: &[&str], version: &LoadedVersion) -> Result<Vec<Ready>, Fault> {
        let mut ready = Vec::with_capacity(texts.len());
        for (place, (asked, text)) in self.asked.items.iter().zip(texts).enumerate() {
            let item = number(place);
            match version.tokenize(text, asked.truncate) {
                Ok(tokens) => {
                    let normalize = asked.normalize.unwrap_or(version.settings().normalize);
                    ready.push(Ready { item, tokens, normalize });
                }
                Err(rejection) => self.reject(vec![item], rejection)?,
            }
        }
        Ok(ready)
    }

    fn run(
        &mut self,
        batch: &[&Ready],
        tokenizing: Duration,
        serving: &mut Serving<LoadedVersion>,
    ) -> Result<(), Fault> {
        let started = Instant::now();
        let tokens: Vec<&Tokens> = batch.iter().map(|item| &item.tokens).collect();
        let mut embeddings = Vec::new();
        let (dimension, cpu_time) = match self.embed(&tokens, serving, &mut embeddings) {
            Ok(embedded) => embedded,
            Err(error) => {
                let items = batch.iter().map(|item| item.item).collect();
                return self.reject(items, Rejection::Inference(error.to_string()));
            }
        };
        let (mut items, mut broken) = (Vec::with_capacity(batch.len()), Vec::new());
        for (ready, embedding) in batch.iter().zip(embeddings.chunks_exact_mut(dimension)) {
            if ready.normalize {
                pooling::normalize(embedding);
            }
            // JSON has no NaN, and a vector search that is given one finds nothing ever after.
            if embedding.iter().all(|value| value.is_finite()) {
                let tokens = number(ready.tokens.ids.len());
                items.push(EmbeddedItem { item: ready.item, tokens });
            } else {
                broken.push(ready.item);
            }
        }
        if !broken.is_empty() {
            let is_finite = |embedding: &&[f32]| embedding.iter().all(|value| value.is_finite());
            embeddings =
                embeddings.chunks_exact(dimension).filter(is_finite).flatten().copied().collect();
            self.reject(broken, Rejection::Inference("the embedding is not finite".into()))?;
        }
        if items.is_empty() {
            return Ok(());
        }
        let answer = Embeddings {
            generation: serving.generation,
            dimension: number(dimension),
            items,
            tokenize_micros: micros(tokenizing),
            infer_micros: micros(started.elapsed()),
            infer_cpu_micros: micros(cpu_time),
        };
        self.sender.send(self.asked.id, &FromWorker::Embeddings(answer), embeddings.as_bytes())
    }

    /// The number of components, and the CPU time of this thread.
    fn embed(
        &self,
        tokens: &[&Tokens],
        serving: &mut Serving<LoadedVersion>,
        embeddings: &mut Vec<f32>,
    ) -> Result<(usize, Duration), SessionError> {
        let begun = CpuTime::now();
        let wide =
            if self.asked.wide { serving.content.embed_wide(tokens, embeddings) } else { None };
        match wide {
            Some(dimension) => Ok((dimension, begun.elapsed())),
            None => serving.content.embed_observed(tokens, embeddings),
        }
    }

    fn reject(&mut self, items: Vec<u32>, reason: Rejection) -> Result<(), Fault> {
        self.sender.send(self.asked.id, &FromWorker::Rejected { items, reason }, &[])
    }
}

/// Numbers of items, tokens and components are far below the limit.
fn number(value: usize) -> u32 {
    u32::try_from(value).expect("limits keep every count within 32 bits")
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(lengths: &[u32]) -> Vec<EmbedItem> {
        let item = |&text_bytes| EmbedItem { text_bytes, normalize: None, truncate: true };
        lengths.iter().map(item).collect()
    }

    #[test]
    fn the_payload_is_cut_into_the_texts_of_the_items() {
        let payload = "aé東".as_bytes();
        assert_eq!(texts(&items(&[1, 0, 2, 3]), payload).unwrap(), ["a", "", "é", "東"]);
        assert!(texts(&[], b"").unwrap().is_empty());
    }

    #[test]
    fn a_group_that_does_not_add_up_is_a_fault_and_not_an_answer() {
        let broken: [(&[u32], &str); 6] = [
            (&[1], ""),
            (&[u32::MAX, 1], "a"),
            (&[1], "ab"),
            (&[], "a"),
            (&[1, 1], "é"),
            (&[0; GROUP_ITEMS_MAX + 1], ""),
        ];
        for (lengths, payload) in broken {
            let fault = texts(&items(lengths), payload.as_bytes()).unwrap_err();
            assert!(matches!(fault, Fault::Protocol(_)), "{lengths:?} {payload:?}");
        }
    }
}
