//! Runs the fixed texts through a model. Their embeddings or scores identify its behavior.

use onnxd_proto::domain::{Refusal, Task};

use super::{model::TextModel, prepare::TextRequest, stages::pooling};
use crate::{
    artifacts::probes::{ORDINARY, Probes, TEXTS},
    families::family::Extent,
};

/// How many of the texts to run when a compiled form is loaded.
const TEXTS_AT_LOAD: usize = 1;

/// Length of a folded sparse vector, whose full dimension is too large to store.
const FOLDED: usize = 1024;

/// Embeds or scores the fixed texts.
pub(super) fn probe(version: &mut TextModel, extent: Extent) -> Result<Probes, Refusal> {
    let texts = match extent {
        Extent::All => &TEXTS[..],
        Extent::AtLoad => &TEXTS[..TEXTS_AT_LOAD],
    };
    if matches!(version.settings().task, Task::Embed | Task::Sparse) {
        return embed(version, texts);
    }
    let mut scores = Vec::new();
    for text in texts {
        let request = match version.settings().task {
            Task::Rerank => TextRequest::pair(ORDINARY, text),
            _ => TextRequest::text(text),
        };
        scores.append(&mut version.run_one(&request)?);
    }
    Ok(Probes::from_values(scores))
}

/// A text that this tokenizer maps to no tokens becomes a zero row: a model for one language may
/// not cover others.
fn embed(version: &mut TextModel, texts: &[&str]) -> Result<Probes, Refusal> {
    let (mut dimension, mut rows) = (0, Vec::new());
    for (row, text) in texts.iter().enumerate() {
        let request = TextRequest::text(text);
        if row == 0 || version.prepare_any(&request).is_ok() {
            let mut embedding = version.run_one(&request)?;
            if version.settings().task == Task::Sparse {
                embedding = fold(&embedding);
            }
            pooling::normalize(&mut embedding);
            dimension = embedding.len();
            rows.append(&mut embedding);
        } else {
            rows.resize(rows.len() + dimension, 0.0);
        }
    }
    Ok(Probes::from_rows(dimension, rows))
}

fn fold(vector: &[f32]) -> Vec<f32> {
    let mut folded = vec![0.0; FOLDED];
    for (index, value) in vector.iter().enumerate() {
        folded[index % FOLDED] += value;
    }
    folded
}
