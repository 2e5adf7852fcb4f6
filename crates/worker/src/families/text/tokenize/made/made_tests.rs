use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const WORDS: &str =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\nun\n##aff\n##able\n!\ncafe\n東\nHello\n";
const BYTES: &str = r#"{"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "h": 4, "e": 5, "l": 6, "o": 7,
    "Ġ": 8, "!": 9, "he": 10, "ll": 11, "hell": 12, "hello": 13, "Ġhello": 14, "<mask>": 15}"#;
const MERGES: &str = "#version: 0.2\nh e\nl l\nhe ll\nhell o\nĠ hello\nh e\n";

fn version(files: &[(&str, String)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
    dir
}

fn bert(config: &Value) -> TempDir {
    version(&[("vocab.txt", WORDS.into()), (CONFIG, config.to_string())])
}

fn roberta(config: &Value) -> TempDir {
    version(&[
        ("vocab.json", BYTES.into()),
        ("merges.txt", MERGES.into()),
        (CONFIG, config.to_string()),
    ])
}

fn ids(dir: &TempDir, text: &str) -> Vec<u32> {
    tokenizer(dir.path()).unwrap().encode(text, true).unwrap().get_ids().to_vec()
}

fn refusal(dir: &TempDir) -> String {
    tokenizer(dir.path()).unwrap_err().message
}

fn token(id: u32, content: &str, lstrip: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": false,
        "normalized": false, "special": true})
}

/// Matches what transformers 4.57 saves for such a tokenizer.
#[test]
fn word_piece_conversion_matches_transformers() {
    let dir = bert(&json!({"tokenizer_class": "BertTokenizer"}));
    let made: Value = serde_json::from_slice(&document(dir.path()).unwrap()).unwrap();
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let added: Vec<Value> = (0..).zip(special).map(|(id, text)| token(id, text, false)).collect();
    assert_eq!(made["added_tokens"], Value::Array(added));
    let normalizer = json!({"type": "BertNormalizer", "clean_text": true,
        "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
    assert_eq!(made["normalizer"], normalizer);
    assert_eq!(made["pre_tokenizer"], json!({"type": "BertPreTokenizer"}));
    let special = |id: &str, kind| json!({"SpecialToken": {"id": id, "type_id": kind}});
    let text = |id: &str, kind| json!({"Sequence": {"id": id, "type_id": kind}});
    let (cls, sep) = (special("[CLS]", 0), special("[SEP]", 0));
    assert_eq!(made["post_processor"]["single"], json!([cls, text("A", 0), sep]));
    let pair = json!([cls, text("A", 0), sep, text("B", 1), special("[SEP]", 1)]);
    assert_eq!(made["post_processor"]["pair"], pair);
    assert_eq!(made["model"]["type"], "WordPiece");
    assert_eq!(made["model"]["max_input_chars_per_word"], 100);
    assert_eq!(made["model"]["vocab"]["Hello"], 13);
}

#[test]
fn word_splitting_follows_the_configuration() {
    let lower = bert(&json!({"tokenizer_class": "DistilBertTokenizerFast"}));
    assert_eq!(ids(&lower, "Hello UNAFFABLE!"), [2, 5, 7, 8, 9, 10, 3]);
    assert_eq!(ids(&lower, "café x東東"), [2, 11, 1, 12, 12, 3]);
    assert_eq!(ids(&lower, "hello[MASK] [mask]"), [2, 5, 4, 1, 1, 1, 3]);
    assert_eq!(ids(&lower, ""), [2, 3]);
    let cased = bert(&json!({"tokenizer_class": "BertTokenizer", "do_lower_case": false}));
    assert_eq!(ids(&cased, "Hello hello café"), [2, 13, 5, 1, 3]);
    let stripped = bert(
        &json!({"tokenizer_class": "BertTokenizer", "do_lower_case": false, "strip_accents": true}),
    );
    assert_eq!(ids(&stripped, "Hello café"), [2, 13, 11, 3]);
    let joined =
        bert(&json!({"tokenizer_class": "BertTokenizer", "tokenize_chinese_chars": false}));
    assert_eq!(ids(&joined, "東東 東"), [2, 1, 12, 3]);
}

#[test]
fn kind_falls_back_to_the_model_type() {
    let dir = bert(&json!({"do_lower_case": true, "model_max_length": 512}));
    assert!(refusal(&dir).contains("tokenizer_config.json has no tokenizer_class"));
    fs::write(dir.path().join("config.json"), r#"{"model_type": "bert"}"#).unwrap();
    assert_eq!(ids(&dir, "hello"), [2, 5, 3]);
    fs::write(dir.path().join("config.json"), r#"{"model_type": "albert"}"#).unwrap();
    assert!(refusal(&dir).contains("its model type is \"albert\""));
    let class = r#"{"model_type": "bert", "tokenizer_class": "XLMRobertaTokenizer"}"#;
    fs::write(dir.path().join("config.json"), class).unwrap();
    assert!(refusal(&dir).contains("its class is XLMRobertaTokenizer. Create it with: python -c"));
}

#[test]
fn added_tokens_follow_the_vocabulary_in_every_release() {
    let q = json!({"content": "[Q] ", "lstrip": false, "normalized": true, "rstrip": false,
        "single_word": false, "special": false});
    let newer =
        bert(&json!({"tokenizer_class": "BertTokenizer", "added_tokens_decoder": {"14": q}}));
    let older = bert(&json!({"tokenizer_class": "BertTokenizer"}));
    fs::write(older.path().join("added_tokens.json"), r#"{"[Q] ": 14}"#).unwrap();
    let map = r#"{"mask_token": {"content": "[MASK]", "lstrip": false}, "cls_token": "[CLS]"}"#;
    fs::write(older.path().join("special_tokens_map.json"), map).unwrap();
    assert_eq!(document(newer.path()).unwrap(), document(older.path()).unwrap());
    assert_eq!(ids(&newer, "[Q] hello [q] world"), [2, 14, 5, 14, 6, 3]);
    fs::write(older.path().join("added_tokens.json"), r#"{"[Q] ": 15}"#).unwrap();
    assert!(refusal(&older).contains("\"[Q] \" should have the id 15, but in vocab.txt it has 14"));
}

#[test]
fn byte_pairs_merge_between_special_tokens() {
    let dir = roberta(&json!({"tokenizer_class": "RobertaTokenizer"}));
    assert_eq!(ids(&dir, "hello hello!"), [0, 13, 14, 9, 2]);
    assert_eq!(ids(&dir, "hello <mask>!"), [0, 13, 15, 9, 2]);
    let tokenizer = tokenizer(dir.path()).unwrap();
    let pair = tokenizer.encode(("hello", "he"), true).unwrap();
    assert_eq!(pair.get_ids(), [0, 13, 2, 2, 10, 2]);
    let prefixed =
        roberta(&json!({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": true}));
    assert_eq!(ids(&prefixed, "hello"), [0, 14, 2]);
}

#[test]
fn mpnet_mask_needs_its_flags() {
    let config = json!({"tokenizer_class": "MPNetTokenizer"});
    let dir = version(&[
        ("vocab.txt", "<s>\n<pad>\n</s>\n<unk>\n[UNK]\nhello\n<mask>\n".into()),
        (CONFIG, config.to_string()),
    ]);
    assert!(refusal(&dir).contains("tokenizer_config.json has no added_tokens_decoder"));
    let config = json!({"tokenizer_class": "MPNetTokenizer", "added_tokens_decoder": {
        "6": {"content": "<mask>", "lstrip": true, "normalized": false, "special": true}}});
    fs::write(dir.path().join(CONFIG), config.to_string()).unwrap();
    assert_eq!(ids(&dir, "hello <mask> x"), [0, 5, 6, 4, 2]);
    let tokenizer = tokenizer(dir.path()).unwrap();
    let pair = tokenizer.encode(("hello", "hello"), true).unwrap();
    assert_eq!(pair.get_ids(), [0, 5, 2, 2, 5, 2]);
}

#[test]
fn inconvertible_tokenizer_is_refused_with_the_remedy() {
    let plain = || json!({"tokenizer_class": "BertTokenizer"});
    let with = |field: &str, value: Value| {
        let mut config = plain();
        config[field] = value;
        refusal(&bert(&config))
    };
    let missing = refusal(&version(&[]));
    assert!(missing.contains("tokenizer_config.json, which names its class, is missing as well"));
    assert!(missing.contains("AutoTokenizer.from_pretrained('DIR').save_pretrained('DIR')"));
    let lost = refusal(&version(&[(CONFIG, plain().to_string())]));
    assert!(lost.contains("vocab.txt is missing as well"));
    assert!(
        with("tokenizer_class", "Qwen2Tokenizer".into()).contains("its class is Qwen2Tokenizer")
    );
    assert!(with("do_basic_tokenize", false.into()).contains("sets do_basic_tokenize"));
    assert!(with("never_split", json!(["x"])).contains("sets never_split"));
    assert!(with("extra_special_tokens", json!({"x": "y"})).contains("sets extra_special_tokens"));
    assert!(with("cls_token", "[X]".into()).contains("vocab.txt lacks the token \"[X]\""));
    assert!(with("do_lower_case", "yes".into()).contains("tokenizer_config.json: do_lower_case"));
    let wrong = json!({"5": {"content": "[CLS]"}});
    assert!(with("added_tokens_decoder", wrong).contains("\"[CLS]\" should have the id 5"));
    let dir = roberta(&json!({"tokenizer_class": "RobertaTokenizer"}));
    fs::write(dir.path().join("merges.txt"), "#version: 0.2\nh e\nh x\n").unwrap();
    assert!(refusal(&dir).contains("merges.txt: line 3: vocab.json lacks the token \"x\""));
    fs::write(dir.path().join("merges.txt"), "#version: 0.2\nh\n").unwrap();
    assert!(refusal(&dir).contains("merges.txt: line 2: expected two tokens"));
    fs::write(dir.path().join("vocab.json"), r#"{"a": -1}"#).unwrap();
    assert!(refusal(&dir).contains("token \"a\" has the id -1"));
}

#[test]
fn line_breaks_match_python() {
    let dir = bert(&json!({"tokenizer_class": "BertTokenizer"}));
    fs::write(dir.path().join("vocab.txt"), WORDS.replace('\n', "\r\n")).unwrap();
    assert_eq!(ids(&dir, "hello world"), [2, 5, 6, 3]);
    fs::write(dir.path().join("vocab.txt"), WORDS.trim_end()).unwrap();
    assert_eq!(ids(&dir, "hello world"), [2, 5, 6, 3]);
    // The later id of a token counts, and such a vocabulary cannot be extended.
    fs::write(dir.path().join("vocab.txt"), format!("{WORDS}hello\n")).unwrap();
    assert_eq!(ids(&dir, "hello"), [2, 14, 3]);
    let more = json!({"tokenizer_class": "BertTokenizer", "bos_token": "[B]"});
    fs::write(dir.path().join(CONFIG), more.to_string()).unwrap();
    assert!(refusal(&dir).contains("14 tokens have ids up to 14"));
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        file in 0..5_usize, place: prop::sample::Index, bytes in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let flags = json!({"content": "[MASK]", "lstrip": true, "special": true});
        let config = json!({"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]",
            "do_lower_case": true, "added_tokens_decoder": {"4": flags}});
        let words = bert(&config);
        let pairs = roberta(&json!({"tokenizer_class": "RobertaTokenizer", "unk_token": "<unk>"}));
        let (dir, name) = [
            (&words, "vocab.txt"), (&words, CONFIG),
            (&pairs, "vocab.json"), (&pairs, "merges.txt"), (&pairs, CONFIG),
        ][file];
        let path = dir.path().join(name);
        let mut content = fs::read(&path).unwrap();
        let at = place.index(content.len());
        let end = (at + bytes.len()).min(content.len());
        content.splice(at..end, bytes);
        fs::write(&path, content).unwrap();
        if let Ok(tokenizer) = tokenizer(dir.path()) {
            let _ = tokenizer.encode("hello unaffable [MASK] <mask>", true);
        }
    }
}
