//! Embeddings, and the generations that answer.

use std::collections::BTreeMap;

use onnxd_proto::wire::{
    message::{FromWorker, ToWorker},
    operation::Rejection,
};
use serde::Deserialize;

use crate::{
    fixtures::{self, model, onnxruntime},
    supervisor::{Embedded, Supervisor, embed_item},
};

/// `reference.json` next to the tiny models.
#[derive(Deserialize)]
pub(crate) struct Tiny {
    pub(crate) texts: Vec<String>,
    tokens: Vec<u32>,
    pub(crate) models: BTreeMap<String, Vec<Vec<f32>>>,
}

/// `tests/golden/minilm.json`, generated with sentence-transformers.
#[derive(Deserialize)]
struct Golden {
    items: Vec<GoldenItem>,
}

#[derive(Deserialize)]
struct GoldenItem {
    text: String,
    embedding: Vec<f32>,
}

pub(crate) fn tiny() -> Tiny {
    fixtures::read(&model("tiny/reference.json"))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn assert_close(embedding: &[f32], expected: &[f32], text: &str) {
    assert_eq!(embedding.len(), expected.len(), "{text}");
    let cosine =
        dot(embedding, expected) / (dot(embedding, embedding) * dot(expected, expected)).sqrt();
    assert!(cosine >= 0.99999, "{text}: the cosine is {cosine}");
    for (component, (a, b)) in embedding.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= 1e-4, "{text}: component {component} is {a} instead of {b}");
    }
}

/// Asserts the embeddings of texts, sent as one group and one by one.
fn assert_embeds(supervisor: &mut Supervisor, texts: &[&str], expected: &[Vec<f32>]) {
    let together = supervisor.embed(texts);
    for ((text, expected), together) in texts.iter().zip(expected).zip(together) {
        assert_close(&together.embedding, expected, text);
        let alone = supervisor.embed(&[text]).remove(0);
        assert_close(&alone.embedding, expected, text);
        assert_eq!(alone.tokens, together.tokens, "{text}");
    }
}

#[test]
fn tiny_embeddings_match_the_reference() {
    let Tiny { texts, tokens, models } = tiny();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (name, expected) in models {
        let mut supervisor = Supervisor::serving(&format!("tiny/{name}"));
        assert_embeds(&mut supervisor, &texts, &expected);
        let counted: Vec<u32> = supervisor.embed(&texts).iter().map(|one| one.tokens).collect();
        assert_eq!(counted, tokens, "{name}");
    }
}

/// Asserts that the worker serves MiniLM.
pub(crate) fn assert_is_minilm(supervisor: &mut Supervisor) {
    let path = fixtures::workspace().join("tests/golden/minilm.json");
    let items = fixtures::read::<Golden>(&path).items;
    assert_eq!(items.len(), 16);
    let (texts, expected): (Vec<&str>, Vec<Vec<f32>>) =
        items.iter().map(|item| (item.text.as_str(), item.embedding.clone())).unzip();
    assert_embeds(supervisor, &texts, &expected);
}

#[test]
fn minilm_embeddings_match_sentence_transformers() {
    assert_is_minilm(&mut Supervisor::serving("minilm"));
}

#[test]
fn large_group_answers_each_item_once() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let texts: Vec<String> = (0..32).map(|n| "word ".repeat(1 + n % 3)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let together = supervisor.embed(&texts);
    for (text, together) in texts.iter().zip(&together) {
        let alone: Embedded = supervisor.embed(&[text]).remove(0);
        assert_close(&alone.embedding, &together.embedding, text);
    }
}

#[test]
fn commit_takes_effect_at_the_next_group() {
    let Tiny { texts, models, .. } = tiny();
    let text = texts[2].as_str();
    let mut supervisor = Supervisor::serving("tiny/a");
    for (generation, name) in [(1, "a"), (2, "b"), (3, "a")] {
        if generation > 1 {
            supervisor.commit(generation, &format!("tiny/{name}"));
            supervisor.send_texts(&[text]);
            supervisor.expect_loaded(generation);
        } else {
            supervisor.send_texts(&[text]);
        }
        let answer = supervisor.answers(1).remove(0).unwrap();
        assert_eq!(answer.generation, generation);
        assert_close(&answer.embedding, &models[name][2], text);
    }
}

#[test]
fn same_version_in_a_new_generation_is_not_reloaded() {
    let mut supervisor = Supervisor::serving("tiny/a");
    supervisor.commit(2, "tiny/a");
    supervisor.send_texts(&["a"]);
    assert!(supervisor.expect_loaded(2).1.is_zero());
    assert_eq!(supervisor.answers(1)[0].as_ref().unwrap().generation, 2);
}

#[test]
fn failed_load_keeps_serving_the_old_generation() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let before = supervisor.embed(&["a"]);
    supervisor.commit_version(2, "nowhere");
    supervisor.send_texts(&["a"]);
    let (_, message) = supervisor.receive();
    assert!(
        matches!(message, FromWorker::LoadFailed { slot: 5, generation: 2, .. }),
        "{message:?}"
    );
    assert_eq!(supervisor.answers(1)[0].as_ref(), Ok(&before[0]));
    // The failure is reported once; the next answer comes without it.
    assert_eq!(supervisor.embed(&["a"]), before);
    supervisor.commit(3, "tiny/b");
    supervisor.send_texts(&["a"]);
    supervisor.expect_loaded(3);
    assert_eq!(supervisor.answers(1)[0].as_ref().unwrap().generation, 3);
}

#[test]
fn worker_without_a_generation_answers_not_loaded() {
    let mut supervisor = Supervisor::start();
    supervisor.greet(&onnxruntime(), None);
    assert_eq!(supervisor.receive().1, FromWorker::Ready);
    supervisor.send_texts(&["a", "b"]);
    for answer in supervisor.answers(2) {
        assert!(matches!(answer, Err(Rejection::NotLoaded(_))), "{answer:?}");
    }
    supervisor.commit(7, "tiny/a");
    supervisor.send_texts(&["a"]);
    supervisor.expect_loaded(7);
    assert_eq!(supervisor.answers(1)[0].as_ref().unwrap().generation, 7);
}

#[test]
fn items_have_individual_options() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let long = "a ".repeat(100);
    let item = |text: &str, normalize, truncate| embed_item(text.len(), normalize, truncate);
    let items = vec![
        item(&long, None, true),
        item(&long, None, false),
        item("a", Some(false), false),
        item("a", Some(true), false),
    ];
    supervisor.send_items(&[&long, &long, "a", "a"], items);
    let answers = supervisor.answers(4);
    assert_eq!(answers[0].as_ref().unwrap().tokens, 64);
    assert_eq!(answers[1], Err(Rejection::TooLong { tokens: 102, max: 64 }));
    let length = |index: usize| {
        let embedding = &answers[index].as_ref().unwrap().embedding;
        dot(embedding, embedding).sqrt()
    };
    assert!((length(0) - 1.0).abs() < 1e-5 && (length(3) - 1.0).abs() < 1e-5);
    assert!((length(2) - 1.0).abs() > 1e-3, "{}", length(2));
}

#[test]
fn ping_is_answered_with_its_id() {
    let mut supervisor = Supervisor::serving("tiny/a");
    supervisor.send(&ToWorker::Ping, &[]);
    assert_eq!(supervisor.receive(), (2, FromWorker::Pong));
}
