//! The longest text and the prompts that the files of real models set, and errors in these files.

use std::fs;

use onnxd_proto::domain::RefusalKind;

use super::*;
use crate::families::own::Own;

/// Reads the settings from a directory with these files.
fn settings(files: &[(&str, &str)]) -> Result<Settings, Refusal> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let own = Own::read(dir.path())?;
    read(&Files::read(dir.path(), &own)?)
}

#[test]
fn most_specific_file_sets_the_length_within_the_positions() {
    let positions = ("config.json", r#"{"max_position_embeddings": 512}"#);
    let tokenizer = |limit| ("tokenizer_config.json", limit);
    let small = tokenizer(r#"{"model_max_length": 128}"#);
    let none = tokenizer(r#"{"model_max_length": 1000000000000000019884624838656}"#);
    let null = ("sentence_bert_config.json", r#"{"max_seq_length": null}"#);
    let sentence = |text| ("sentence_bert_config.json", text);
    let cases: [(&[(&str, &str)], u32); 8] = [
        (&[positions], 512),
        (&[positions, small], 128),
        (&[positions, none], 512),
        (&[none], 512),
        (&[small, null], 128),
        (&[positions, small, sentence(r#"{"max_seq_length": 256}"#)], 256),
        (&[positions, sentence(r#"{"max_seq_length": 1024}"#)], 512),
        (&[sentence(r#"{"max_seq_length": 99999999999}"#)], 131_072),
    ];
    for (files, expected) in cases {
        assert_eq!(settings(files).unwrap().max_tokens, expected, "{files:?}");
    }
}

#[test]
fn malformed_file_is_refused_with_file_and_field() {
    let cases: [(&str, &str, &[&str]); 3] = [
        ("config.json", "{", &["config.json", "JSON"]),
        ("config.json", "[]", &["config.json", "object"]),
        (
            "sentence_bert_config.json",
            r#"{"max_seq_length": "x"}"#,
            &["sentence_bert_config.json", "max_seq_length"],
        ),
    ];
    for (file, text, words) in cases {
        let refusal = settings(&[(file, text)]).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Contract, "{file}: {text}: {refusal}");
        for word in words {
            assert!(refusal.message.contains(word), "{file}: {text}: {refusal}");
        }
    }
    let zero = settings(&[("sentence_bert_config.json", r#"{"max_seq_length": 0}"#)]).unwrap_err();
    assert!(zero.message.contains("max_seq_length"), "{zero}");
}

#[test]
fn unknown_default_prompt_is_refused() {
    let file = "config_sentence_transformers.json";
    let text = r#"{"prompts": {"query": "q: "}, "default_prompt_name": "query", "x": 1}"#;
    let prompts = settings(&[(file, text)]).unwrap().prompts;
    assert_eq!((&prompts.named["query"][..], prompts.default.as_deref()), ("q: ", Some("query")));
    let own = ("onnxd.toml", "default_prompt_name = \"d\"\nprompts = { d = \"doc: \" }");
    let prompts = settings(&[(file, text), own]).unwrap().prompts;
    assert_eq!((&prompts.named["d"][..], prompts.default.as_deref()), ("doc: ", Some("d")));
    let refusal = settings(&[(file, &text.replace("{\"query\"", "{\"other\""))]).unwrap_err();
    assert!(refusal.message.contains(file) && refusal.message.contains("query"), "{refusal}");
}
