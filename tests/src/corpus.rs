//! Texts whose embeddings are known for several contents, so that an answer tells which content
//! made it.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{client::Client, fixtures};

/// A component may differ by this much: padding and the CPU's instructions change the order of
/// additions. Different contents differ by a hundred times more.
pub const TOLERANCE: f32 = 1e-4;

/// Texts, and their embeddings by content.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// The texts.
    pub texts: Vec<String>,
    /// By the name of a content, the embeddings in the order of the texts.
    pub contents: BTreeMap<String, Vec<Vec<f32>>>,
}

impl Corpus {
    /// What numpy says about the tiny models.
    pub fn tiny() -> Self {
        let reference = fixtures::reference();
        Self { texts: reference.texts, contents: reference.models }
    }

    /// The texts and embeddings of sentence-transformers, as the content `minilm`.
    pub fn golden() -> Self {
        let items = fixtures::golden();
        let embeddings = items.iter().map(|item| item.embedding.clone()).collect();
        let texts = items.into_iter().map(|item| item.text).collect();
        Self { texts, contents: BTreeMap::from([("minilm".to_owned(), embeddings)]) }
    }

    /// Adds a content by asking a server that serves it.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn learn(&mut self, content: &str, client: &mut Client, model: &str) {
        let mut embeddings = Vec::new();
        for text in &self.texts {
            let body = json!({"inputs": text, "model": model});
            let response = client.post("/embed", &body).await.unwrap();
            embeddings.push(response.embeddings().remove(0));
        }
        self.contents.insert(content.to_owned(), embeddings);
    }

    /// The one content that made all these embeddings of the texts at `places`.
    ///
    /// # Errors
    /// There is none; the reason says how far the nearest is.
    pub fn content(&self, places: &[usize], embeddings: &[Vec<f32>]) -> Result<String, String> {
        if places.len() != embeddings.len() {
            return Err(format!("{} texts, {} embeddings", places.len(), embeddings.len()));
        }
        let distances = self.contents.iter().map(|(name, known)| {
            let worst = places
                .iter()
                .zip(embeddings)
                .map(|(&place, embedding)| distance(&known[place], embedding))
                .fold(0.0, f32::max);
            (name, worst)
        });
        let nearest = distances.min_by(|one, other| one.1.total_cmp(&other.1));
        match nearest {
            Some((name, worst)) if worst <= TOLERANCE => Ok(name.clone()),
            Some((name, worst)) => Err(format!("{worst} away from {name}, which is nearest")),
            None => Err("no content is known".to_owned()),
        }
    }
}

/// The largest difference of two components; infinite where there is no comparison.
pub fn distance(one: &[f32], other: &[f32]) -> f32 {
    if one.len() != other.len() || one.iter().chain(other).any(|component| component.is_nan()) {
        return f32::INFINITY;
    }
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

/// The cosine of the angle between two embeddings.
pub fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let dot = |left: &[f32], right: &[f32]| {
        left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum::<f64>()
    };
    dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
}

/// An embedding's length.
pub fn length(embedding: &[f32]) -> f64 {
    embedding.iter().map(|component| f64::from(*component).powi(2)).sum::<f64>().sqrt()
}
