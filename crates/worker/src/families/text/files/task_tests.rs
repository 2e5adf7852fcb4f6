//! The tasks of real models' files.

use std::fs;

use super::*;
use crate::families::config::ModelConfig;

const ONNXD_TOML: &str = "onnxd.toml";
const SENTENCE: &str = "config_sentence_transformers.json";

fn dir_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn task(files: &[(&str, &str)]) -> Result<(Task, bool), Refusal> {
    let dir = dir_with(files);
    let model_config = ModelConfig::read(dir.path())?;
    let (task, guess) = determine(&Files::read(dir.path(), &model_config)?)?;
    Ok((task, guess.is_some()))
}

fn scores(labels: &str, more: &str) -> String {
    format!(r#"{{"architectures": ["BertForSequenceClassification"], "id2label": {labels}{more}}}"#)
}

const ONE: &str = r#"{"0": "a"}"#;
const TWO: &str = r#"{"1": "b", "0": "a"}"#;

#[test]
fn files_determine_the_task() {
    let (one, two) = (scores(ONE, ""), scores(TWO, ""));
    let regression = scores(ONE, r#", "problem_type": "regression""#);
    let counted = r#"{"architectures": ["X_ForSequenceClassification"], "num_labels": 1}"#;
    let (splade, pylate) = (
        r#"[{"type": "sentence_transformers.MLMTransformer"}, {"type": "sentence_transformers.SpladePooling"}]"#,
        r#"[{"type": "sentence_transformers.Transformer"}, {"type": "pylate.models.Dense.Dense", "path": "1"}]"#,
    );
    let sequence = r#"{"transformer_task": "sequence-classification"}"#;
    let plain = r#"[{"type": "sentence_transformers.Transformer"}]"#;
    let cases: [(&[(&str, &str)], Task); 15] = [
        (&[("tokenizer.json", "{}")], Task::Embed),
        (&[("config.json", r#"{"architectures": ["BertModel"]}"#)], Task::Embed),
        (
            &[("config.json", r#"{"architectures": ["BertForTokenClassification"]}"#)],
            Task::TokenClassify,
        ),
        (&[("config.json", &one)], Task::Rerank),
        (&[("config.json", counted)], Task::Rerank),
        (&[("config.json", &regression)], Task::Classify),
        (&[("config.json", &two)], Task::Classify),
        (&[("config.json", &two), ("modules.json", "[]")], Task::Embed),
        (&[("config.json", &two), (ONNXD_TOML, "task = \"rerank\"")], Task::Rerank),
        (
            &[
                ("config.json", &one),
                ("modules.json", plain),
                (SENTENCE, r#"{"model_type": "CrossEncoder"}"#),
            ],
            Task::Rerank,
        ),
        (
            &[
                ("config.json", &one),
                ("modules.json", plain),
                ("sentence_bert_config.json", sequence),
            ],
            Task::Rerank,
        ),
        (&[("modules.json", splade)], Task::Sparse),
        (&[("modules.json", pylate)], Task::MultiVector),
        (&[("modules.json", plain), (SENTENCE, r#"{"model_type": "ColBERT"}"#)], Task::MultiVector),
        (
            &[("config.json", &one), (SENTENCE, r#"{"model_type": "SentenceTransformer"}"#)],
            Task::Embed,
        ),
    ];
    for (files, expected) in cases {
        assert_eq!(task(files).unwrap(), (expected, false), "{files:?}");
    }
}

#[test]
fn two_label_reranker_is_a_guess_by_labels_or_name() {
    let relevance = scores(r#"{"0": "not_relevant", "1": "relevant"}"#, "");
    assert_eq!(task(&[("config.json", &relevance)]).unwrap(), (Task::Rerank, true));
    let named = scores(TWO, r#", "_name_or_path": "amberoad/bert-multilingual-reranking-msmarco""#);
    assert_eq!(task(&[("config.json", &named)]).unwrap(), (Task::Rerank, true));
    let mood = scores(r#"{"0": "negative", "1": "positive"}"#, "");
    assert_eq!(task(&[("config.json", &mood)]).unwrap(), (Task::Classify, false));
    let labels = |first: &str, second: &str| [first.to_owned(), second.to_owned()];
    assert_eq!(relevant(&labels("RELEVANT", "irrelevant")), Some((0, true)));
    assert_eq!(relevant(&labels("no", "yes")), Some((1, false)));
    assert_eq!(relevant(&labels("a", "b")), None);
}

#[test]
fn labels_are_ordered_by_number_or_refused() {
    let labels_of = |given: &str| {
        let dir = dir_with(&[("config.json", &scores(given, ""))]);
        labels(&Files::read(dir.path(), &ModelConfig::default()).unwrap())
    };
    assert_eq!(labels_of(TWO).unwrap(), ["a", "b"]);
    assert!(labels_of("{}").unwrap().is_empty());
    for wrong in [r#"{"1": "b"}"#, r#"{"0": "a", "00": "b"}"#, r#"{"x": "a"}"#, r#"{"0": 1}"#, "[]"]
    {
        assert!(labels_of(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn activation_follows_the_training() {
    let activation_of = |files: &[(&str, &str)], task: Task, labels: usize| {
        let dir = dir_with(files);
        let model_config = ModelConfig::read(dir.path()).unwrap();
        activation(&Files::read(dir.path(), &model_config).unwrap(), task, labels).unwrap()
    };
    let problem = |word: &str| format!(r#"{{"problem_type": "{word}"}}"#);
    let identity = r#"{"activation_fn": "torch.nn.modules.linear.Identity"}"#;
    let old = format!(r#"{{"sentence_transformers": {identity}}}"#);
    assert_eq!(activation_of(&[], Task::Classify, 3), Activation::Softmax);
    assert_eq!(activation_of(&[], Task::Classify, 1), Activation::Sigmoid);
    assert_eq!(activation_of(&[], Task::Rerank, 1), Activation::Sigmoid);
    assert_eq!(activation_of(&[(SENTENCE, identity)], Task::Rerank, 1), Activation::Identity);
    assert_eq!(activation_of(&[("config.json", &old)], Task::Rerank, 1), Activation::Identity);
    let regression = problem("regression");
    assert_eq!(
        activation_of(&[("config.json", &regression)], Task::Classify, 1),
        Activation::Identity
    );
    let each = problem("multi_label_classification");
    assert_eq!(activation_of(&[("config.json", &each)], Task::Classify, 3), Activation::Sigmoid);
    let onnxd_toml = (ONNXD_TOML, "activation = \"softmax\"");
    assert_eq!(
        activation_of(&[("config.json", &regression), onnxd_toml], Task::Classify, 1),
        Activation::Softmax
    );
}

#[test]
fn unknown_key_in_onnxd_toml_is_named() {
    let refusal = task(&[(ONNXD_TOML, "tasks = \"embed\"")]).unwrap_err();
    assert!(refusal.message.contains("tasks"), "{refusal}");
    assert!(task(&[(ONNXD_TOML, "task = \"talk\"")]).is_err());
}
