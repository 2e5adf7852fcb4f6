//! Extracts rows of numbers from an answer of any contract, and compares rows.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::corpus::{cosine, distance, length};

/// Rows of numbers: a text's vector, a pair's score or a token's vector each.
pub type Rows = Vec<Vec<f32>>;

/// Shorter vectors have no meaningful direction.
const NO_DIRECTION: f64 = 1e-6;

/// How to read the answer of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// `/embed`: a list of vectors.
    Vectors,
    /// `/v1/embeddings`.
    OpenAi,
    /// `/v2/embed`.
    Cohere,
    /// `/embed_all`: the vectors of each text's tokens, one row per token.
    Tokens,
    /// `/embed_sparse`, with the number of dimensions.
    Sparse(usize),
    /// `/rerank`: a score per text.
    Ranks,
    /// `/predict`: for each text, the scores of these labels.
    Labels(Vec<String>),
    /// `POST /` with candidate labels: a score per label.
    Candidates(Vec<String>),
    /// `POST /` of a token classifier: the entities of each text, compared with these.
    Entities(Vec<Vec<String>>),
}

/// Tolerance between an answer and the expected one.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Largest allowed difference of two numbers.
    pub difference: f32,
    /// Smallest allowed cosine of two vectors.
    pub cosine: f64,
}

impl Limit {
    /// For float32 vectors.
    pub const FLOAT32: Self = Self { difference: 1e-4, cosine: 0.999_99 };
    /// For scores, whose rows are not vectors.
    pub const SCORES: Self = Self { difference: 1e-4, cosine: -1.0 };

    /// Compares `rows` with the expected rows.
    ///
    /// # Errors
    /// Describes the first row outside the tolerance.
    pub fn check(self, rows: &Rows, reference: &Rows) -> Result<(), String> {
        if rows.len() != reference.len() {
            return Err(format!("{} rows, expected {}", rows.len(), reference.len()));
        }
        for (index, (row, reference)) in rows.iter().zip(reference).enumerate() {
            let (difference, cosine) = (distance(row, reference), direction(row, reference));
            // A NaN compares as neither smaller nor larger.
            if !(difference <= self.difference && cosine >= self.cosine) {
                let (row, reference) =
                    (&row[..row.len().min(4)], &reference[..reference.len().min(4)]);
                return Err(format!(
                    "row {index}: difference {difference:.2e}, cosine {cosine:.6}: {row:.4?}, expected {reference:.4?}"
                ));
            }
        }
        Ok(())
    }
}

fn direction(one: &[f32], other: &[f32]) -> f64 {
    let is_zero = |row: &[f32]| length(row) < NO_DIRECTION;
    if is_zero(one) && is_zero(other) { 1.0 } else { cosine(one, other) }
}

impl Reading {
    /// Returns the numbers in an answer.
    ///
    /// # Errors
    /// Fails if the answer does not have the expected form.
    pub fn rows(&self, answer: &Value) -> Result<Rows, String> {
        self.try_rows(answer)
            .ok_or_else(|| format!("answer does not match {self:.60?}: {answer:.400}"))?
    }

    fn try_rows(&self, answer: &Value) -> Option<Result<Rows, String>> {
        let list = || answer.as_array();
        Some(Ok(match self {
            Self::Vectors => rows(answer)?,
            Self::OpenAi => {
                answer["data"].as_array()?.iter().map(embedding).collect::<Option<_>>()?
            }
            Self::Cohere => rows(&answer["embeddings"]["float"])?,
            Self::Tokens => {
                let texts: Option<Vec<Rows>> = list()?.iter().map(rows).collect();
                texts?.into_iter().flatten().collect()
            }
            Self::Sparse(size) => {
                list()?.iter().map(|entries| sparse(entries, *size)).collect::<Option<_>>()?
            }
            Self::Ranks => {
                let mut scores = BTreeMap::new();
                for one in list()? {
                    scores.insert(one["index"].as_u64()?, vec![number(&one["score"])?]);
                }
                scores.into_values().collect()
            }
            Self::Labels(labels) => {
                // A single text is answered without the outer list.
                let is_one = list()?.first().is_some_and(Value::is_object);
                let texts = if is_one { std::slice::from_ref(answer) } else { list()? };
                texts.iter().map(|one| by_label(one, labels)).collect::<Option<_>>()?
            }
            Self::Candidates(labels) => {
                let is_many = list().is_some_and(|list| {
                    list.first().is_some_and(|one| one.is_array() || one["labels"].is_array())
                });
                let texts = if is_many { list()? } else { std::slice::from_ref(answer) };
                texts.iter().map(|one| candidates(one, labels)).collect::<Option<_>>()?
            }
            Self::Entities(words) => return entities(answer, words),
        }))
    }
}

fn number(value: &Value) -> Option<f32> {
    serde_json::from_value(value.clone()).ok()
}

/// Parses a list of lists of numbers.
pub fn rows(value: &Value) -> Option<Rows> {
    serde_json::from_value(value.clone()).ok()
}

fn embedding(one: &Value) -> Option<Vec<f32>> {
    serde_json::from_value(one["embedding"].clone()).ok()
}

fn sparse(entries: &Value, size: usize) -> Option<Vec<f32>> {
    let mut row = vec![0.0; size];
    for entry in entries.as_array()? {
        let index = usize::try_from(entry["index"].as_u64()?).ok()?;
        *row.get_mut(index)? = number(&entry["value"])?;
    }
    Some(row)
}

fn by_label(list: &Value, labels: &[String]) -> Option<Vec<f32>> {
    let list = list.as_array().filter(|list| list.len() == labels.len())?;
    let score = |label: &String| {
        list.iter().find(|one| one["label"] == **label).and_then(|one| number(&one["score"]))
    };
    labels.iter().map(score).collect()
}

/// Reads either of the forms that huggingface_hub accepts.
fn candidates(answer: &Value, labels: &[String]) -> Option<Vec<f32>> {
    let Some(names) = answer["labels"].as_array() else { return by_label(answer, labels) };
    let scores = answer["scores"].as_array().filter(|scores| scores.len() == labels.len())?;
    let score = |label: &String| {
        let index = names.iter().position(|name| *name == **label)?;
        number(scores.get(index)?)
    };
    labels.iter().map(score).collect()
}

/// Returns the scores of the entities, or an error if the entities differ from the expected ones.
fn entities(answer: &Value, words: &[Vec<String>]) -> Option<Result<Rows, String>> {
    // A single text is answered without the outer list.
    let is_one = words.len() == 1 && answer.get(0).is_none_or(Value::is_object);
    let texts = if is_one { std::slice::from_ref(answer) } else { answer.as_array()? };
    let mut scores = Vec::new();
    if texts.len() != words.len() {
        return None;
    }
    for (text, reference) in texts.iter().zip(words) {
        let found: Vec<String> = text.as_array()?.iter().map(entity).collect();
        if let Some(index) =
            (0..found.len().max(reference.len())).find(|&i| found.get(i) != reference.get(i))
        {
            let (found, reference) = (found.get(index), reference.get(index));
            return Some(Err(format!("entity {index}: {found:?}, expected {reference:?}")));
        }
        scores
            .push(text.as_array()?.iter().map(|one| number(&one["score"])).collect::<Option<_>>()?);
    }
    Some(Ok(scores))
}

/// Reads the entities of an answer for `texts` texts, for comparison with later answers.
pub fn entities_of(answer: &Value, texts: usize) -> Option<(Reading, Rows)> {
    let is_one = texts == 1 && answer.get(0).is_none_or(Value::is_object);
    let lists = if is_one { std::slice::from_ref(answer) } else { answer.as_array()? };
    let words = |list: &Value| Some(list.as_array()?.iter().map(entity).collect());
    let reading = Reading::Entities(lists.iter().map(words).collect::<Option<_>>()?);
    let rows = reading.rows(answer).ok()?;
    Some((reading, rows))
}

/// Describes an entity without its score.
pub fn entity(one: &Value) -> String {
    let label = one.get("entity_group").or_else(|| one.get("entity"));
    format!("{} {} {} {}", label.unwrap_or(&Value::Null), one["word"], one["start"], one["end"])
}
