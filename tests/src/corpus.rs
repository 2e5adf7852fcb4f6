//! Texts with known embeddings for several contents. An answer thus reveals which content produced
//! it.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{client::Client, fixtures};

/// Tolerance per component: padding and CPU instructions change the order of additions. Different
/// contents differ by a hundred times more.
pub const TOLERANCE: f32 = 1e-4;

/// Texts and their embeddings by content.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// The texts.
    pub texts: Vec<String>,
    /// By content name, the embeddings in the order of the texts.
    pub contents: BTreeMap<String, Vec<Vec<f32>>>,
}

impl Corpus {
    /// Returns the numpy reference for the tiny models.
    pub fn tiny() -> Self {
        let reference = fixtures::reference();
        Self { texts: reference.texts, contents: reference.models }
    }

    /// Returns the reference of sentence-transformers, as the content `minilm`.
    pub fn golden() -> Self {
        let items = fixtures::golden();
        let embeddings = items.iter().map(|item| item.embedding.clone()).collect();
        let texts = items.into_iter().map(|item| item.text).collect();
        Self { texts, contents: BTreeMap::from([("minilm".to_owned(), embeddings)]) }
    }

    /// Adds a content by querying a server that serves it.
    ///
    /// # Panics
    /// Panics if the server does not answer.
    pub async fn learn(&mut self, content: &str, client: &mut Client, model: &str) {
        let mut embeddings = Vec::new();
        for text in &self.texts {
            let body = json!({"inputs": text, "model": model});
            let response = client.post("/embed", &body).await.unwrap();
            embeddings.push(response.embeddings().remove(0));
        }
        self.contents.insert(content.to_owned(), embeddings);
    }

    /// Returns the content that produced all these embeddings of the texts at `indices`.
    ///
    /// # Errors
    /// Fails if no content matches; the reason states the distance of the nearest.
    pub fn content(&self, indices: &[usize], embeddings: &[Vec<f32>]) -> Result<String, String> {
        if indices.len() != embeddings.len() {
            return Err(format!("{} texts, {} embeddings", indices.len(), embeddings.len()));
        }
        let distances = self.contents.iter().map(|(name, known)| {
            let worst = indices
                .iter()
                .zip(embeddings)
                .map(|(&index, embedding)| distance(&known[index], embedding))
                .fold(0.0, f32::max);
            (name, worst)
        });
        let nearest = distances.min_by(|one, other| one.1.total_cmp(&other.1));
        match nearest {
            Some((name, worst)) if worst <= TOLERANCE => Ok(name.clone()),
            Some((name, worst)) => Err(format!("nearest content is {name}, at distance {worst}")),
            None => Err("no known contents".to_owned()),
        }
    }
}

/// Returns the largest difference of two components, or infinity for incomparable embeddings.
pub fn distance(one: &[f32], other: &[f32]) -> f32 {
    if one.len() != other.len() || one.iter().chain(other).any(|component| component.is_nan()) {
        return f32::INFINITY;
    }
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

/// Returns the cosine of two embeddings.
pub fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let dot = |left: &[f32], right: &[f32]| {
        left.iter().zip(right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum::<f64>()
    };
    dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
}

/// Returns an embedding's Euclidean norm.
pub fn length(embedding: &[f32]) -> f64 {
    embedding.iter().map(|component| f64::from(*component).powi(2)).sum::<f64>().sqrt()
}
