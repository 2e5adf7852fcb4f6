//! Tokenization and truncation.

use std::path::Path;

use super::*;
use crate::families::own::Own;

/// A tokenizer that splits at spaces, with padding and truncation that must be ignored.
fn tokenizer(max_tokens: u32, post_processor: &str) -> Result<Tokenizer, Refusal> {
    let dir = tempfile::tempdir().unwrap();
    let json = format!(
        r###"{{"version": "1.0",
        "truncation": {{"direction": "Right", "max_length": 3, "strategy": "LongestFirst",
            "stride": 0}},
        "padding": {{"strategy": {{"Fixed": 9}}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 5, "pad_type_id": 0, "pad_token": "b"}},
        "added_tokens": [{{"id": 6, "content": "[X]", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}}],
        "normalizer": null, "pre_tokenizer": {{"type": "WhitespaceSplit"}}, "decoder": null,
        "post_processor": {post_processor},
        "model": {{"type": "WordLevel", "unk_token": "u",
            "vocab": {{"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "u": 3, "a": 4, "b": 5}}}}}}"###
    );
    std::fs::write(dir.path().join(FILE), json).unwrap();
    open(dir.path(), max_tokens)
}

fn open(dir: &Path, max_tokens: u32) -> Result<Tokenizer, Refusal> {
    let own = Own::default();
    Tokenizer::open(&Files::read(dir, &own)?, max_tokens, false)
}

const BERT: &str = r#"{"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}"#;

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<i64> {
    let tokens = tokenizer.encode(&Text::One(text), Some(Side::Right)).unwrap();
    assert_eq!(tokens.type_ids, vec![0; tokens.ids.len()]);
    tokens.ids
}

#[test]
fn padding_and_truncation_of_the_file_are_ignored() {
    let tokenizer = tokenizer(8, BERT).unwrap();
    assert_eq!(ids(&tokenizer, "a b a zzz"), [1, 4, 5, 4, 3, 2]);
    assert_eq!(ids(&tokenizer, ""), [1, 2]);
}

#[test]
fn overlong_text_is_cut_between_special_tokens_or_rejected() {
    let tokenizer = tokenizer(4, BERT).unwrap();
    assert_eq!(ids(&tokenizer, "a b"), [1, 4, 5, 2]);
    assert_eq!(ids(&tokenizer, "a b a b a b"), [1, 4, 5, 2]);
    assert_eq!(tokenizer.encode(&Text::One("a b"), None).unwrap().ids, [1, 4, 5, 2]);
    let rejection = tokenizer.encode(&Text::One("a b a"), None).unwrap_err();
    assert_eq!(rejection, Rejection::TooLong { tokens: 5, max: 4 });
}

#[test]
fn text_can_be_cut_at_the_start() {
    let tokenizer = tokenizer(4, BERT).unwrap();
    let tokens = tokenizer.encode(&Text::One("a a a b"), Some(Side::Left)).unwrap();
    assert_eq!(tokens.ids, [1, 4, 5, 2]);
}

#[test]
fn pair_texts_have_distinct_types_and_the_longer_is_cut() {
    let tokenizer = tokenizer(8, BERT).unwrap();
    let pair = |first, second, truncate| {
        tokenizer.encode(&Text::Pair(first, second, PairCut::Longest), truncate)
    };
    let tokens = pair("a b", "b", None).unwrap();
    assert_eq!((tokens.ids, tokens.type_ids), (vec![1, 4, 5, 2, 5, 2], vec![0, 0, 0, 0, 1, 1]));
    let tokens = pair("a b", "b b b b a", Some(Side::Right)).unwrap();
    assert_eq!(tokens.ids, [1, 4, 5, 2, 5, 5, 5, 2]);
    let rejection = pair("a b", "b b b b a", None).unwrap_err();
    assert_eq!(rejection, Rejection::TooLong { tokens: 10, max: 8 });
}

#[test]
fn client_token_ids_are_used_if_in_the_vocabulary() {
    let tokenizer = tokenizer(3, BERT).unwrap();
    let take = |ids: &[u32], truncate| tokenizer.encode(&Text::Ids(ids.to_vec()), truncate);
    assert_eq!(take(&[1, 6, 2], None).unwrap().ids, [1, 6, 2]);
    assert_eq!(take(&[1, 4, 5, 2], Some(Side::Left)).unwrap().ids, [4, 5, 2]);
    assert_eq!(take(&[1, 4, 5, 2], Some(Side::Right)).unwrap().ids, [1, 4, 5]);
    assert_eq!(take(&[1; 4], None), Err(Rejection::TooLong { tokens: 4, max: 3 }));
    assert_eq!(take(&[1, 7], None), Err(Rejection::TokenId { id: 7, highest: 6 }));
    assert!(matches!(take(&[], None), Err(Rejection::Tokenizer(_))));
}

#[test]
fn listed_tokens_have_character_offsets() {
    let tokenizer = tokenizer(3, BERT).unwrap();
    let listed = serde_json::to_value(tokenizer.list("é a b a", true).unwrap()).unwrap();
    let special = |id, text| serde_json::json!({"id": id, "text": text, "special": true, "start": null, "stop": null});
    assert_eq!((&listed[0], &listed[5]), (&special(1, "[CLS]"), &special(2, "[SEP]")));
    let token = |id, text, start, stop| serde_json::json!({"id": id, "text": text, "special": false, "start": start, "stop": stop});
    assert_eq!((&listed[1], &listed[3]), (&token(3, "é", 0, 1), &token(5, "b", 4, 5)));
    assert_eq!(tokenizer.list("a", false).unwrap().len(), 1);
}

#[test]
fn tokens_decode_to_text() {
    let tokenizer = tokenizer(8, BERT).unwrap();
    assert_eq!(tokenizer.decode(&[6, 4, 5], true).unwrap(), "a b");
    assert_eq!(tokenizer.decode(&[6, 4, 5], false).unwrap(), "[X] a b");
    assert_eq!(tokenizer.decode(&[9], true), Err(Rejection::TokenId { id: 9, highest: 6 }));
}

#[test]
fn special_token_in_a_text_keeps_its_id() {
    assert_eq!(ids(&tokenizer(8, BERT).unwrap(), "a [X] b"), [1, 4, 6, 5, 2]);
}

#[test]
fn text_without_tokens_is_rejected() {
    let tokenizer = tokenizer(8, "null").unwrap();
    assert!(matches!(
        tokenizer.encode(&Text::One(" "), Some(Side::Right)),
        Err(Rejection::Tokenizer(_))
    ));
    assert_eq!(ids(&tokenizer, "a"), [4]);
}

#[test]
fn padding_id_comes_from_the_file() {
    assert_eq!(tokenizer(8, BERT).unwrap().pad_id(), 5);
}

#[test]
fn highest_id_includes_added_tokens() {
    assert_eq!(tokenizer(8, BERT).unwrap().highest_id(), 6);
}

#[test]
fn limit_without_room_for_a_text_is_refused() {
    assert_eq!(tokenizer(2, BERT).unwrap_err().kind, RefusalKind::Contract);
}

#[test]
fn missing_or_malformed_tokenizer_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = open(dir.path(), 8).unwrap_err();
    assert_eq!(missing.kind, RefusalKind::Contract);
    assert!(missing.message.contains("tokenizer.json is missing"), "{missing}");
    std::fs::write(dir.path().join(FILE), "{").unwrap();
    let malformed = open(dir.path(), 8).unwrap_err();
    assert_eq!(malformed.kind, RefusalKind::Load);
    assert!(malformed.message.contains(FILE), "{malformed}");
}
