//! Texts generated from a seed, and each content's embeddings of them, so that every response
//! reveals which content computed it.

use std::collections::BTreeMap;

use bytes::Bytes;
use e2e::{client::Client, corpus, random::Random};
use serde_json::json;

/// Number of texts.
const TEXTS: usize = 256;
/// Words in a short text.
const SHORT_WORDS: std::ops::RangeInclusive<u64> = 4..=16;
/// Words in a text of the mixed corpus: log-normal with this median and sigma, clamped to a
/// maximum.
const MIXED_MEDIAN: f64 = 24.0;
const MIXED_SIGMA: f64 = 0.95;
const MIXED_MAX: f64 = 200.0;
/// Compared components. Two contents differ in each of them.
const COMPARED: usize = 16;
/// Minimum difference between two contents, so that responses can be told apart.
const DIFFERENCE_MIN: f32 = 10.0 * corpus::TOLERANCE;

const VOCABULARY: &str = "the of and to in is was for that with on as by at from his her it an \
    were which are this also be had or first one their its new after but who two they have some \
    city river train market house garden window morning night summer winter music letter school \
    doctor teacher captain engine bridge island mountain forest water bread coffee paper price \
    model update worker memory server request question answer reason system number table large \
    small early late green white black old young heavy open closed quiet loud simple strange \
    finds makes writes reads builds opens carries follows begins ends waits turns holds learns \
    quickly slowly often never always perhaps almost together between behind without during";

/// Distribution of text lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Corpus {
    Short,
    Mixed,
}

impl Corpus {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Mixed => "mixed",
        }
    }

    fn words(self, random: &mut Random) -> u64 {
        match self {
            Self::Short => {
                SHORT_WORDS.start() + random.below(SHORT_WORDS.end() - SHORT_WORDS.start() + 1)
            }
            Self::Mixed => {
                let words = MIXED_MEDIAN * (MIXED_SIGMA * random.normal()).exp();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "clamped"
                )]
                let words = words.clamp(1.0, MIXED_MAX) as u64;
                words
            }
        }
    }
}

/// Texts as request bodies, and the leading components of their embeddings by content.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    texts: Vec<String>,
    bodies: Vec<Bytes>,
    known: BTreeMap<String, Vec<Vec<f32>>>,
}

impl Texts {
    /// Creates the texts for requests to `model`.
    pub(crate) fn new(seed: u64, model: &str, corpus: Corpus) -> Self {
        let words: Vec<&str> = VOCABULARY.split_whitespace().collect();
        let mut random = Random::new(seed);
        let mut text = || {
            let count = corpus.words(&mut random);
            let chosen = (0..count).map(|_| words[random.below_len(words.len())]);
            chosen.collect::<Vec<_>>().join(" ")
        };
        let texts: Vec<String> = (0..TEXTS).map(|_| text()).collect();
        let body = |text: &String| Bytes::from(json!({"inputs": text, "model": model}).to_string());
        Self { bodies: texts.iter().map(body).collect(), texts, known: BTreeMap::new() }
    }

    /// Returns the texts.
    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }

    pub(crate) fn len(&self) -> usize {
        self.bodies.len()
    }

    pub(crate) fn body(&self, index: usize) -> Bytes {
        self.bodies[index].clone()
    }

    /// Learns the embeddings from a server that serves only `content`.
    pub(crate) async fn learn(&mut self, content: &str, client: &mut Client) -> Result<(), String> {
        let mut embeddings = Vec::new();
        for body in &self.bodies {
            let answer = client.send(hyper::Method::POST, "/embed", body.clone()).await;
            let answer = answer.map_err(|error| format!("{content}: {error}"))?;
            embeddings.push(components(&answer.body)?);
        }
        for (other, known) in &self.known {
            let pairs = known.iter().zip(&embeddings);
            let nearest = pairs.map(|(one, two)| corpus::distance(one, two));
            if nearest.fold(f32::INFINITY, f32::min) < DIFFERENCE_MIN {
                return Err(format!("embeddings of {content} and {other} are too similar"));
            }
        }
        self.known.insert(content.to_owned(), embeddings);
        Ok(())
    }

    /// Returns the content that computed a response.
    pub(crate) fn content(&self, index: usize, body: &[u8]) -> Result<String, String> {
        let found = components(body)?;
        let fits =
            |known: &Vec<Vec<f32>>| corpus::distance(&known[index], &found) <= corpus::TOLERANCE;
        let content = self.known.iter().find(|(_, known)| fits(known));
        content
            .map(|(name, _)| name.clone())
            .ok_or_else(|| format!("embedding of unknown content: {found:?}"))
    }
}

/// Returns the leading components of the only embedding in a body of `/embed`. Parsing all of every
/// response would take CPU time from the measured server.
fn components(body: &[u8]) -> Result<Vec<f32>, String> {
    let other =
        || format!("not an embedding: {}", String::from_utf8_lossy(&body[..body.len().min(80)]));
    let rest = body.strip_prefix(b"[[").ok_or_else(other)?;
    let numbers = rest.split(|byte| b",]".contains(byte)).take(COMPARED);
    let parsed = numbers.map(|number| str::from_utf8(number).ok()?.parse().ok());
    parsed.collect::<Option<Vec<f32>>>().ok_or_else(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixed_corpus_is_log_normal() {
        let texts = Texts::new(1, "m", Corpus::Mixed);
        let mut words: Vec<usize> =
            texts.texts().iter().map(|text| text.split(' ').count()).collect();
        words.sort_unstable();
        let median = words[words.len() / 2];
        assert!((18..=30).contains(&median), "{median}");
        assert!(words[0] >= 1 && words[words.len() - 1] <= 200 && words[words.len() - 1] > 100);
    }

    #[test]
    fn short_texts_depend_only_on_the_seed() {
        let bodies = |seed| Texts::new(seed, "m", Corpus::Short).bodies;
        assert_eq!(bodies(1), bodies(1));
        assert_ne!(bodies(1), bodies(2));
        for body in bodies(1) {
            let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let words = value["inputs"].as_str().unwrap().split(' ').count() as u64;
            assert!(SHORT_WORDS.contains(&words), "{value}");
        }
    }

    #[test]
    fn a_response_reveals_its_content() {
        let body = |first: f32| {
            let all: Vec<String> = (0..40u8).map(|i| (first + f32::from(i)).to_string()).collect();
            format!("[[{}]]", all.join(",")).into_bytes()
        };
        let mut texts = Texts::new(1, "m", Corpus::Short);
        for (name, first) in [("one", 0.5), ("two", 0.75)] {
            texts.known.insert(name.into(), vec![components(&body(first)).unwrap()]);
        }
        assert_eq!(texts.content(0, &body(0.75)).unwrap(), "two");
        assert!(texts.content(0, &body(0.6)).is_err());
        assert!(texts.content(0, b"{\"error\": 1}").is_err());
    }
}
