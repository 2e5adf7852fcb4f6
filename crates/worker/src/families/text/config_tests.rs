//! What the files of real models look like, and what may be wrong with them.

use std::fs;

use onnxd_proto::domain::RefusalKind;

use super::*;

/// What is read from a directory with these files.
fn settings(files: &[(&str, &str)]) -> Result<Settings, Refusal> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Own::read(dir.path()).and_then(|own| read(dir.path(), &own))
}

const MODULES: &str = r#"[
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
]"#;

#[test]
fn a_directory_without_any_of_the_files_is_mean_pooled_and_normalized() {
    let found = settings(&[]).unwrap();
    assert_eq!(
        (found.max_tokens, found.pooling, found.normalize),
        (512, Pooling::from(PoolingMode::Mean), true)
    );
}

#[test]
fn embeddings_are_normalized_where_the_list_of_modules_says_so() {
    let pooling = ("1_Pooling/config.json", r#"{"pooling_mode": "mean"}"#);
    assert!(!settings(&[("modules.json", MODULES), pooling]).unwrap().normalize);
    let normalized =
        MODULES.replace("}\n]", r#"}, {"type": "sentence_transformers.models.Normalize"}]"#);
    assert!(settings(&[("modules.json", &normalized), pooling]).unwrap().normalize);
}

#[test]
fn the_longest_text_is_as_the_most_specific_file_says_and_never_longer_than_the_model_takes() {
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
fn pooling_is_what_the_pooling_modules_directory_says() {
    let elsewhere = MODULES.replace("1_Pooling", "pool");
    let cases = [
        (
            MODULES,
            "1_Pooling/config.json",
            r#"{"pooling_mode_mean_tokens": true}"#,
            PoolingMode::Mean.into(),
        ),
        (MODULES, "1_Pooling/config.json", r#"{"pooling_mode": "cls"}"#, PoolingMode::Cls.into()),
        (
            MODULES,
            "1_Pooling/config.json",
            r#"{"pooling_mode_lasttoken": true}"#,
            PoolingMode::LastToken.into(),
        ),
        (
            &elsewhere,
            "pool/config.json",
            r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
            PoolingMode::Cls.into(),
        ),
    ];
    for (modules, file, text, expected) in cases {
        let read = settings(&[("modules.json", modules), (file, text)]).unwrap();
        assert_eq!(read.pooling, expected, "{text}");
    }
}

#[test]
fn what_cannot_be_served_as_it_says_is_refused_with_the_file_and_the_field() {
    let dense = r#"[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]"#;
    let outside = MODULES.replace("1_Pooling", "../1_Pooling");
    let pooling = "1_Pooling/config.json";
    let cases: [(&str, &str, &[&str]); 12] = [
        ("modules.json", dense, &["modules.json", "sentence_transformers.models.Dense"]),
        ("modules.json", "{}", &["modules.json", "list"]),
        ("modules.json", "[1]", &["modules.json", "object"]),
        ("modules.json", r#"[{"type": 1}]"#, &["modules.json", "type"]),
        ("modules.json", MODULES, &[pooling, "missing"]),
        ("modules.json", &outside, &["../1_Pooling", "within"]),
        (pooling, "{}", &[pooling, "no pooling mode"]),
        (pooling, r#"{"pooling_mode_max_tokens": true}"#, &[pooling, "max_tokens"]),
        (
            pooling,
            r#"{"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true}"#,
            &[pooling, "max_tokens+mean_tokens"],
        ),
        (pooling, r#"{"pooling_mode_mean_tokens": 1}"#, &[pooling, "pooling_mode_mean_tokens"]),
        ("config.json", "{", &["config.json", "JSON"]),
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
fn prompts_are_those_of_the_file_and_a_default_that_is_not_among_them_is_refused() {
    let file = "config_sentence_transformers.json";
    let text = r#"{"prompts": {"query": "q: "}, "default_prompt_name": "query", "x": 1}"#;
    let prompts = settings(&[(file, text)]).unwrap().prompts;
    assert_eq!((&prompts.named["query"][..], prompts.default.as_deref()), ("q: ", Some("query")));
    let refusal = settings(&[(file, &text.replace("{\"query\"", "{\"other\""))]).unwrap_err();
    assert!(refusal.message.contains(file) && refusal.message.contains("query"), "{refusal}");
}

#[test]
fn onnxd_toml_has_the_last_word() {
    let own = "pooling = \"cls\"\nnormalize = false\nmax_tokens = 9\nactivation = \"sigmoid\"";
    let found = settings(&[("onnxd.toml", own), ("tokenizer.json", "{}")]).unwrap();
    assert_eq!((found.task, found.max_tokens), (Task::Embed, 9));
    assert_eq!((found.pooling, found.normalize), (PoolingMode::Cls.into(), false));
    assert_eq!(found.activation, Activation::Sigmoid);
}
