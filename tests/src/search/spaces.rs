//! Texts and their vectors in the space of each content.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use serde_json::json;

use crate::{random::Random, server::Server};

/// Texts that one request embeds.
const TEXTS_AT_ONCE: usize = 32;
/// Requests at once.
const CLIENTS: usize = 4;
/// Words that the tiny models know. They take all other words for one.
const WORDS: [&str; 40] = [
    "the", "and", "that", "have", "with", "this", "from", "they", "will", "what", "there", "their",
    "when", "make", "like", "time", "know", "take", "people", "year", "good", "some", "could",
    "other", "than", "then", "look", "only", "come", "over", "think", "also", "back", "after",
    "work", "first", "well", "london", "world", "server",
];

/// Texts, each with its vector in the space of each content.
#[derive(Debug)]
pub struct Spaces {
    texts: Vec<String>,
    numbers: HashMap<String, usize>,
    contents: BTreeMap<String, Space>,
}

/// The vectors of one content, of length 1, one after another.
#[derive(Debug)]
pub struct Space {
    dimension: usize,
    components: Vec<f32>,
}

impl Space {
    /// Returns the vector of a text.
    pub fn vector(&self, text: usize) -> &[f32] {
        &self.components[text * self.dimension..][..self.dimension]
    }

    /// Returns the cosine of two texts.
    pub fn score(&self, one: usize, other: usize) -> f32 {
        self.vector(one).iter().zip(self.vector(other)).map(|(one, other)| one * other).sum()
    }
}

impl Spaces {
    /// Returns `count` different texts in the spaces of these contents, embedded by a server of their
    /// own.
    ///
    /// # Panics
    /// Panics if the server does not answer, or if the contents are too much alike to be told apart.
    pub async fn learn(count: usize, contents: &[(&str, &Path)]) -> Arc<Self> {
        let texts: Vec<String> = (0..count).map(sentence).collect();
        let mut builder = Server::builder().argument("--search=off");
        for (name, directory) in contents {
            builder = builder.model(name, directory);
        }
        let server = builder.start().await;
        let mut spaces = BTreeMap::new();
        for (name, _) in contents {
            spaces.insert((*name).to_owned(), embed(&server, name, &texts).await);
        }
        server.stop().await;
        let numbers = texts.iter().cloned().zip(0..).collect();
        let spaces = Self { texts, numbers, contents: spaces };
        spaces.assert_apart();
        Arc::new(spaces)
    }

    /// Checks that each text has different vectors in all spaces.
    fn assert_apart(&self) {
        let spaces: Vec<&Space> = self.contents.values().collect();
        for pair in spaces.windows(2) {
            for text in 0..self.texts.len() {
                let (one, other) = (pair[0].vector(text), pair[1].vector(text));
                let cosine: f32 = one.iter().zip(other).map(|(one, other)| one * other).sum();
                assert!(cosine < 0.8, "{:?} has nearly one vector: {cosine}", self.texts[text]);
            }
        }
    }

    /// Returns the number of texts.
    pub fn count(&self) -> usize {
        self.texts.len()
    }

    /// Returns a text.
    pub fn text(&self, number: usize) -> &str {
        &self.texts[number]
    }

    /// Returns the number of a text.
    pub fn find(&self, text: &str) -> Option<usize> {
        self.numbers.get(text).copied()
    }

    /// Returns the space of a content.
    ///
    /// # Panics
    /// Panics if the content is unknown.
    pub fn space(&self, content: &str) -> &Space {
        &self.contents[content]
    }

    /// Returns the names of the contents.
    pub fn contents(&self) -> impl Iterator<Item = &str> {
        self.contents.keys().map(String::as_str)
    }
}

/// Returns a text that no other number has.
fn sentence(number: usize) -> String {
    let mut random = Random::new(number as u64);
    let count = 3 + random.below_len(5);
    let words: Vec<&str> = (0..count).map(|_| WORDS[random.below_len(WORDS.len())]).collect();
    format!("{} {number}", words.join(" "))
}

async fn embed(server: &Server, model: &str, texts: &[String]) -> Space {
    let lists: Vec<&[String]> = texts.chunks(TEXTS_AT_ONCE).collect();
    let shares = lists.chunks(lists.len().div_ceil(CLIENTS));
    let mut embedding = Vec::new();
    for share in shares {
        let share: Vec<Vec<String>> = share.iter().map(|list| list.to_vec()).collect();
        let (mut client, model) = (server.client().await, model.to_owned());
        embedding.push(tokio::spawn(async move {
            let mut vectors = Vec::new();
            for list in share {
                let body = json!({"inputs": list, "model": model});
                vectors.extend(client.post("/embed", &body).await.unwrap().embeddings());
            }
            vectors
        }));
    }
    let (mut components, mut dimension) = (Vec::new(), 0);
    for embedding in embedding {
        for vector in embedding.await.unwrap() {
            dimension = vector.len();
            components.extend(vector);
        }
    }
    Space { dimension, components }
}

#[cfg(test)]
impl Spaces {
    /// Returns spaces with these vectors, for tests without a server.
    pub(super) fn of(contents: &[(&str, &[[f32; 2]])]) -> Self {
        let count = contents.first().map_or(0, |(_, vectors)| vectors.len());
        let texts: Vec<String> = (0..count).map(|number| format!("text {number}")).collect();
        let space = |vectors: &[[f32; 2]]| Space { dimension: 2, components: vectors.concat() };
        let contents =
            contents.iter().map(|(name, vectors)| ((*name).to_owned(), space(vectors))).collect();
        Self { numbers: texts.iter().cloned().zip(0..).collect(), texts, contents }
    }
}
