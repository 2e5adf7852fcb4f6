//! Reads the numbers of an answer into rows, whatever the contract, and compares rows.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::corpus::{cosine, distance, length};

/// Numbers by row: a text's vector, a pair's score, a token's vector.
pub type Rows = Vec<Vec<f32>>;

/// A vector shorter than this has no direction.
const NO_DIRECTION: f64 = 1e-6;

/// How the answer of a route is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// `/embed`: a list of vectors.
    Vectors,
    /// `/v1/embeddings`.
    OpenAi,
    /// `/v2/embed`.
    Cohere,
    /// `/embed_all`: for each text the vectors of its tokens; one row for each token.
    Tokens,
    /// `/embed_sparse`; the number of components.
    Sparse(usize),
    /// `/rerank`: a score for each text.
    Ranks,
    /// `/predict`: for each text the scores of these labels.
    Labels(Vec<String>),
    /// `POST /` with candidate labels: the score of each.
    Candidates(Vec<String>),
    /// `POST /` of a model that labels tokens: for each text its entities, and these are their words.
    Entities(Vec<Vec<String>>),
}

/// How far an answer may be from the right one.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The largest difference of two numbers.
    pub difference: f32,
    /// The smallest cosine of two vectors.
    pub cosine: f64,
}

impl Limit {
    /// Of float32.
    pub const FLOAT32: Self = Self { difference: 1e-4, cosine: 0.999_99 };
    /// Of scores, whose rows are no vectors.
    pub const SCORES: Self = Self { difference: 1e-4, cosine: -1.0 };

    /// Says what is wrong with `rows`, if anything is.
    ///
    /// # Errors
    /// The first row that is too far from the right one.
    pub fn check(self, rows: &Rows, right: &Rows) -> Result<(), String> {
        if rows.len() != right.len() {
            return Err(format!("{} rows, not {}", rows.len(), right.len()));
        }
        for (place, (row, right)) in rows.iter().zip(right).enumerate() {
            let (apart, cosine) = (distance(row, right), direction(row, right));
            // A NaN is neither below nor above.
            if !(apart <= self.difference && cosine >= self.cosine) {
                let (row, right) = (&row[..row.len().min(4)], &right[..right.len().min(4)]);
                return Err(format!(
                    "row {place}: {apart:.2e} apart, cosine {cosine:.6}: {row:.4?} is not {right:.4?}"
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
    /// The numbers in an answer.
    ///
    /// # Errors
    /// It is not what such an answer looks like.
    pub fn rows(&self, answer: &Value) -> Result<Rows, String> {
        self.try_rows(answer).ok_or_else(|| format!("not {self:.60?}: {answer:.400}"))?
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
                // One text is answered without the outer list.
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

/// A list of lists of numbers.
pub fn rows(value: &Value) -> Option<Rows> {
    serde_json::from_value(value.clone()).ok()
}

fn embedding(one: &Value) -> Option<Vec<f32>> {
    serde_json::from_value(one["embedding"].clone()).ok()
}

fn sparse(entries: &Value, size: usize) -> Option<Vec<f32>> {
    let mut row = vec![0.0; size];
    for entry in entries.as_array()? {
        let place = usize::try_from(entry["index"].as_u64()?).ok()?;
        *row.get_mut(place)? = number(&entry["value"])?;
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

/// Both forms that huggingface_hub understands.
fn candidates(answer: &Value, labels: &[String]) -> Option<Vec<f32>> {
    let Some(names) = answer["labels"].as_array() else { return by_label(answer, labels) };
    let scores = answer["scores"].as_array().filter(|scores| scores.len() == labels.len())?;
    let score = |label: &String| {
        let place = names.iter().position(|name| *name == **label)?;
        number(scores.get(place)?)
    };
    labels.iter().map(score).collect()
}

/// The scores of entities, if these are the right ones.
fn entities(answer: &Value, words: &[Vec<String>]) -> Option<Result<Rows, String>> {
    // One text is answered without the outer list.
    let is_one = words.len() == 1 && answer.get(0).is_none_or(Value::is_object);
    let texts = if is_one { std::slice::from_ref(answer) } else { answer.as_array()? };
    let mut scores = Vec::new();
    if texts.len() != words.len() {
        return None;
    }
    for (text, right) in texts.iter().zip(words) {
        let found: Vec<String> = text.as_array()?.iter().map(entity).collect();
        if let Some(place) =
            (0..found.len().max(right.len())).find(|&i| found.get(i) != right.get(i))
        {
            let (found, right) = (found.get(place), right.get(place));
            return Some(Err(format!("entity {place}: {found:?} is not {right:?}")));
        }
        scores
            .push(text.as_array()?.iter().map(|one| number(&one["score"])).collect::<Option<_>>()?);
    }
    Some(Ok(scores))
}

/// The entities that a model answers for as many texts, to be compared with later ones.
pub fn entities_of(answer: &Value, texts: usize) -> Option<(Reading, Rows)> {
    let is_one = texts == 1 && answer.get(0).is_none_or(Value::is_object);
    let lists = if is_one { std::slice::from_ref(answer) } else { answer.as_array()? };
    let words = |list: &Value| Some(list.as_array()?.iter().map(entity).collect());
    let reading = Reading::Entities(lists.iter().map(words).collect::<Option<_>>()?);
    let rows = reading.rows(answer).ok()?;
    Some((reading, rows))
}

/// What an entity is, apart from its score.
pub fn entity(one: &Value) -> String {
    let label = one.get("entity_group").or_else(|| one.get("entity"));
    format!("{} {} {} {}", label.unwrap_or(&Value::Null), one["word"], one["start"], one["end"])
}
