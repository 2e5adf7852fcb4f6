use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::families::text::matrices::module_fixture::{self, Given, floats};

const FOLDER: &str = "query_0_SparseStaticEmbedding";

fn module(config: &Value, tensors: &[Given]) -> TempDir {
    module_fixture::version(FOLDER, Some(config), tensors)
}

fn open(dir: &TempDir) -> Result<SparseStatic, Refusal> {
    let id_of = |token: &str| match token {
        "a" => Some(0),
        "b" => Some(1),
        "c" => Some(2),
        _ => None,
    };
    SparseStatic::open(dir.path(), FOLDER, &id_of)
}

#[test]
fn repeated_tokens_count_once_and_zero_weights_are_dropped() {
    let dir = module(&json!({"frozen": true}), &[floats("weight", &[4], &[1.5, 0.0, -2.0, 3.0])]);
    let module = open(&dir).unwrap();
    assert_eq!(module.tokens(), 4);
    assert_eq!(module.weigh(&[3, 0, 3, 1, 0]).unwrap(), [(0, 1.5), (3, 3.0)]);
    assert_eq!(module.weigh(&[]).unwrap(), []);
    assert_eq!(module.weigh(&[1, 4]).unwrap_err(), Rejection::TokenId { id: 4, highest: 3 });
}

#[test]
fn weights_can_be_listed_by_token() {
    let dir = module(&json!({"path": "made/here/idf.json"}), &[]);
    assert!(open(&dir).unwrap_err().message.contains("/idf.json is missing"));
    let list = dir.path().join(FOLDER).join("idf.json");
    fs::write(&list, r#"{"c": 2.5, "a": 1}"#).unwrap();
    assert_eq!(open(&dir).unwrap().weigh(&[2, 1, 0]).unwrap(), [(0, 1.0), (2, 2.5)]);
    fs::write(&list, r#"{"z": 2.5}"#).unwrap();
    assert!(open(&dir).unwrap_err().message.ends_with("the vocabulary has no token \"z\""));
    for bad in ["{}", "[1]", r#"{"a": "x"}"#, "{"] {
        fs::write(&list, bad).unwrap();
        assert!(
            open(&dir).unwrap_err().message.starts_with(&format!("{FOLDER}/idf.json")),
            "{bad}"
        );
    }
}

#[test]
fn weight_tensor_of_wrong_shape_is_refused() {
    for shape in [&[2, 2][..], &[0]] {
        let values = vec![1.0; shape.iter().product()];
        let message = open(&module(&json!({}), &[floats("weight", shape, &values)])).unwrap_err();
        assert!(message.message.contains("expected one weight per token"));
    }
    let message = open(&module(&json!({}), &[floats("x", &[1], &[1.0])])).unwrap_err().message;
    assert!(message.contains("tensor \"weight\" is missing"), "{message}");
}
