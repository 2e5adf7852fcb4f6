//! Runs the fixed texts through a model: their embeddings or scores say what the version does.

use onnxd_proto::{
    domain::{Refusal, Task},
    wire::ask::Side,
};

use super::{model::TextModel, pooling, tokenize::Text};
use crate::{
    artifacts::probes::{Probes, TEXTS},
    families::family::Extent,
};

/// How many texts, from the start, are run when a compiled form is loaded.
const TEXTS_AT_LOAD: usize = 1;

/// Embeds or scores the fixed texts.
pub(super) fn probe(version: &mut TextModel, extent: Extent) -> Result<Probes, Refusal> {
    let texts = match extent {
        Extent::All => &TEXTS[..],
        Extent::AtLoad => &TEXTS[..TEXTS_AT_LOAD],
    };
    if version.settings().task == Task::Embed {
        return embed(version, texts);
    }
    let mut scores = Vec::new();
    for text in texts {
        scores.append(&mut version.embed_text(text)?);
    }
    Ok(Probes::of_values(scores))
}

/// A text without tokens, as far as this tokenizer goes, is a row of zeros: a model for one
/// language need not know all others.
fn embed(version: &mut TextModel, texts: &[&str]) -> Result<Probes, Refusal> {
    let (mut dimension, mut rows) = (0, Vec::new());
    for (row, text) in texts.iter().enumerate() {
        let tokens = version.tokenize(&Text::One(text), Some(Side::Right));
        if row == 0 || tokens.is_ok() {
            let mut embedding = version.embed_text(text)?;
            pooling::normalize(&mut embedding);
            dimension = embedding.len();
            rows.append(&mut embedding);
        } else {
            rows.resize(rows.len() + dimension, 0.0);
        }
    }
    Ok(Probes::of_rows(dimension, rows))
}
