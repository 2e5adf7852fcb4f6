//! Answers and their origin, the same for every operation.

use std::{sync::Arc, time::Instant};

use onnxd_proto::{
    domain::Record,
    generation::Generation,
    wire::operation::{Content, Operation},
};

pub(super) use crate::dispatch::gather::AnsweredInput as Item;
use crate::{
    dispatch::{Input, Phases, Timing},
    models::registry::Model,
};

/// An answer produced entirely by one generation.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// Where the answer comes from.
    pub origin: Origin,
    /// The requested output.
    pub output: T,
}

/// The generation that produced an answer, and what the request took.
#[derive(Clone, Debug)]
pub struct Origin {
    pub model: Arc<Model>,
    pub generation: Generation,
    /// The version and facts of the generation.
    pub record: Arc<Record>,
    /// When the request started.
    pub started: Instant,
    /// The maximum over all inputs, for each phase.
    pub timing: Timing,
    /// The phases of the input that was answered last.
    pub phases: Phases,
    /// Whether the request's spans are recorded.
    pub is_traced: bool,
    /// Tokens computed for all inputs.
    pub tokens: u64,
    /// Unicode characters in all texts.
    pub characters: usize,
}

impl<T> Answer<T> {
    /// Returns the same answer with its output converted.
    pub(super) fn map<U>(self, convert: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { origin: self.origin, output: convert(self.output) }
    }
}

/// Counts the characters of a text: every UTF-8 byte that is not a continuation byte starts one.
pub(super) fn characters(input: &Input) -> usize {
    match &input.operation {
        Operation::Text { text, .. } if text.content != Content::Ids => {
            let begins = |byte: &&u8| **byte & 0xc0 != 0x80;
            input.parts.iter().map(|part| part.iter().filter(begins).count()).sum()
        }
        _ => 0,
    }
}
