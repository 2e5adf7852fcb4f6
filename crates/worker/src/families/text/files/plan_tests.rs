//! The routes of real models, and errors in their modules.

use std::fs;

use onnxd_proto::domain::RefusalKind;

use super::*;
use crate::families::own::Own;

const MODULES: &str = r#"[
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
]"#;
const POOLING: &str = "1_Pooling/config.json";

fn plan(files: &[(&str, &str)]) -> Result<Plan, Refusal> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let own = Own::read(dir.path())?;
    Plan::read(&Files::read(dir.path(), &own)?)
}

#[test]
fn vectors_are_normalized_if_modules_json_says_so() {
    let pooling = (POOLING, r#"{"pooling_mode": "mean"}"#);
    assert!(!plan(&[("modules.json", MODULES), pooling]).unwrap().routes[0].normalize);
    let normalized =
        MODULES.replace("}\n]", r#"}, {"type": "sentence_transformers.models.Normalize"}]"#);
    assert!(plan(&[("modules.json", &normalized), pooling]).unwrap().routes[0].normalize);
    let none = plan(&[]).unwrap();
    assert_eq!((none.routes[0].pooling.clone(), none.routes[0].normalize), (None, true));
}

#[test]
fn pooling_follows_the_pooling_module() {
    for (text, expected, without_prompt) in [
        (r#"{"pooling_mode_mean_tokens": true}"#, "mean", false),
        (r#"{"pooling_mode": "cls"}"#, "cls", false),
        (r#"{"word_embedding_dimension": 8}"#, "mean", false),
        (r#"{"pooling_mode": ["weightedmean", "lasttoken"]}"#, "weighted_mean+last_token", false),
        (
            r#"{"pooling_mode_lasttoken": true, "pooling_mode_cls_token": false}"#,
            "last_token",
            false,
        ),
        (
            r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}"#,
            "cls+mean",
            false,
        ),
        (r#"{"pooling_mode_mean_sqrt_len_tokens": true}"#, "mean_sqrt_len", false),
        (r#"{"pooling_mode": "mean", "include_prompt": false}"#, "mean", true),
    ] {
        let plan = plan(&[("modules.json", MODULES), (POOLING, text)]).unwrap();
        let route = &plan.routes[0];
        assert_eq!(route.pooling.clone().unwrap().to_string(), expected, "{text}");
        assert_eq!(route.without_prompt, without_prompt, "{text}");
    }
}

#[test]
fn dense_applies_to_tokens_before_pooling_and_to_texts_after() {
    let list = r#"[
        {"type": "sentence_transformers.Transformer", "path": ""},
        {"type": "sentence_transformers.Dense", "path": "1_Dense"},
        {"type": "sentence_transformers.Pooling", "path": "1_Pooling"},
        {"type": "sentence_transformers.Dropout", "path": "2_Dropout"},
        {"type": "sentence_transformers.Normalize", "path": "3"},
        {"type": "sentence_transformers.LayerNorm", "path": "4"}
    ]"#;
    let plan = plan(&[("modules.json", list), (POOLING, r#"{"pooling_mode": "max"}"#)]).unwrap();
    let route = &plan.routes[0];
    assert!(matches!(&route.token_steps[..], [Step::Dense(module)] if module.path == "1_Dense"));
    assert!(
        matches!(&route.steps[..], [Step::Normalize, Step::LayerNorm(module)] if module.path == "4")
    );
    assert!(!route.normalize, "the next module undoes it");
}

#[test]
fn router_has_a_route_for_each_side_of_a_search() {
    let list = r#"[{"type": "sentence_transformers.Router", "path": ""}, {"type": "sentence_transformers.Normalize", "path": "9"}]"#;
    let router = r#"{
        "types": {"q": "sentence_transformers.StaticEmbedding", "d": "sentence_transformers.Transformer", "p": "sentence_transformers.Pooling"},
        "structure": {"query": ["q"], "document": ["d", "p"]},
        "parameters": {"default_route": "document"}
    }"#;
    let pooling = ("p/config.json", r#"{"pooling_mode": "cls"}"#);
    let plan = plan(&[("modules.json", list), ("router_config.json", router), pooling]).unwrap();
    assert_eq!(plan.routes.len(), 2);
    let query = plan.route(Some(Role::Query), None);
    assert_eq!(plan.routes[query].source, Source::Table("q".into()));
    assert_eq!(plan.routes[plan.default].source, Source::Graph);
    assert_eq!(plan.route(None, Some("query")), query);
    assert_eq!(plan.route(None, Some("passage")), plan.default);
    assert!(plan.routes.iter().all(|route| route.normalize));
}

#[test]
fn unsupported_modules_are_refused_with_file_and_field() {
    let outside = MODULES.replace("1_Pooling", "../1_Pooling");
    /// Files with their contents, and words of the refusal.
    type Case<'c> = (&'c [(&'c str, &'c str)], &'c [&'c str]);
    let cases: [Case<'_>; 7] = [
        (&[("modules.json", MODULES)], &[POOLING, "missing"]),
        (&[("modules.json", &outside)], &["../1_Pooling", "within"]),
        (&[(POOLING, r#"{"pooling_mode": "median"}"#)], &[POOLING, "median"]),
        (&[(POOLING, r#"{"pooling_mode_median": true}"#)], &[POOLING, "median"]),
        (
            &[(POOLING, r#"{"pooling_mode_mean_tokens": 1}"#)],
            &[POOLING, "pooling_mode_mean_tokens"],
        ),
        (
            &[
                (
                    "modules.json",
                    r#"[{"type": "sentence_transformers.SpladePooling", "path": "1"}]"#,
                ),
                ("1/config.json", r#"{"pooling_strategy": "min"}"#),
            ],
            &["1/config.json", "min"],
        ),
        (
            &[(
                "modules.json",
                r#"[{"type": "sentence_transformers.Transformer"}, {"type": "sentence_transformers.Transformer", "path": "1"}]"#,
            )],
            &["modules.json", "two modules"],
        ),
    ];
    for (files, words) in cases {
        let refusal = plan(files).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Contract, "{files:?}: {refusal}");
        for word in words {
            assert!(refusal.message.contains(word), "{files:?}: {refusal}");
        }
    }
}
