//! What an answer says of where it comes from, whatever was asked.

use std::{sync::Arc, time::Instant};

use onnxd_proto::{
    domain::Record,
    generation::Generation,
    wire::ask::{Ask, Content},
};

pub(super) use crate::dispatch::gather::AnsweredInput as Item;
use crate::{
    dispatch::{Input, Timing},
    models::registry::Model,
};

/// An answer, wholly made by one generation.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// Where it comes from.
    pub origin: Origin,
    /// What was asked for.
    pub output: T,
}

/// The generation that made an answer, and what it took.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The model.
    pub model: Arc<Model>,
    /// The generation.
    pub generation: Generation,
    /// What the generation is.
    pub record: Arc<Record>,
    /// When the request began.
    pub started: Instant,
    /// Of the input that took longest in each phase.
    pub timing: Timing,
    /// Tokens that were computed, for all inputs.
    pub tokens: u64,
    /// Unicode characters of all texts.
    pub characters: usize,
}

impl<T> Answer<T> {
    /// Returns the same answer in another form.
    pub(super) fn map<U>(self, form: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { origin: self.origin, output: form(self.output) }
    }
}

/// Counts the characters of a text: every byte that does not continue a character begins one.
pub(super) fn characters(input: &Input) -> usize {
    match &input.ask {
        Ask::Text { text, .. } if text.content != Content::Ids => {
            let begins = |byte: &&u8| **byte & 0xc0 != 0x80;
            input.parts.iter().map(|part| part.iter().filter(begins).count()).sum()
        }
        _ => 0,
    }
}
