//! Converts the older files of a tokenizer to the missing `tokenizer.json`, if the conversion is
//! exact: `vocab.txt` of BERT and related models, and `vocab.json` with `merges.txt` of RoBERTa.
//! The result equals that of transformers. Anything else is refused with the command that creates
//! the file. Called by [`super::Tokenizer::open`].

mod special;
mod vocabulary;

use std::{fmt::Display, path::Path};

use onnxd_proto::domain::Refusal;
#[cfg(any(test, fuzzing))]
use onnxd_proto::domain::RefusalKind;
use serde_json::{Value, json};

use self::{
    special::SpecialTokens,
    vocabulary::{Merges, Vocabulary},
};
use crate::families::text::files::json::{JsonFile, contract};

/// The file that configures the tokenizer.
const CONFIG: &str = "tokenizer_config.json";

/// Maximum characters of a word that is looked up in a word-piece vocabulary.
const WORD_CHARS_MAX: u32 = 100;

/// The tokenizers that can be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Word pieces between `[CLS]` and `[SEP]`.
    Bert,
    /// Word pieces between `<s>` and `</s>`.
    MpNet,
    /// Byte pairs between `<s>` and `</s>`.
    Roberta,
}

impl Kind {
    /// Returns the kind of a transformers class, which may be the fast variant.
    fn from_class(class: &str) -> Option<Self> {
        Some(match class.strip_suffix("Fast").unwrap_or(class) {
            "BertTokenizer"
            | "ConvBertTokenizer"
            | "DistilBertTokenizer"
            | "ElectraTokenizer"
            | "MobileBertTokenizer"
            | "SqueezeBertTokenizer" => Self::Bert,
            "MPNetTokenizer" => Self::MpNet,
            "RobertaTokenizer" => Self::Roberta,
            _ => return None,
        })
    }

    /// Returns the kind for the `model_type` in `config.json`, which decides if no class is named.
    fn from_model_type(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "bert" | "convbert" | "distilbert" | "electra" | "mobilebert" | "squeezebert" => {
                Self::Bert
            }
            "mpnet" => Self::MpNet,
            "roberta" => Self::Roberta,
            _ => return None,
        })
    }
}

/// Opens the tokenizer of the version in `dir`, which has no `tokenizer.json`.
///
/// # Errors
/// See [`document`]; or the library rejects the vocabulary.
#[cfg(any(test, fuzzing))]
pub(crate) fn tokenizer(dir: &Path) -> Result<tokenizers::Tokenizer, Refusal> {
    tokenizers::Tokenizer::from_bytes(document(dir)?).map_err(|error| {
        RefusalKind::Load.because(format!("the tokenizer converted from the vocabulary: {error}"))
    })
}

/// Returns the content of the missing `tokenizer.json` of the version in `dir`.
///
/// # Errors
/// The tokenizer cannot be converted exactly, or a file is missing or malformed.
pub(crate) fn document(dir: &Path) -> Result<Vec<u8>, Refusal> {
    let Some(config) = JsonFile::read(dir, CONFIG)? else {
        return Err(not_convertible(format!(
            "{CONFIG}, which names its class, is missing as well"
        )));
    };
    let document = match kind(dir, &config)? {
        Kind::Roberta => byte_pairs(dir, &config)?,
        kind => word_pieces(dir, &config, kind)?,
    };
    Ok(document.to_string().into_bytes())
}

/// Determines the kind like transformers: from `tokenizer_config.json`, then from `config.json`.
fn kind(dir: &Path, config: &JsonFile) -> Result<Kind, Refusal> {
    let model = JsonFile::read(dir, "config.json")?;
    let from_model_type = |field: &str| match &model {
        Some(model) => model.get::<String>(field),
        None => Ok(None),
    };
    let class = match config.get::<String>("tokenizer_class")? {
        Some(class) => Some(class),
        None => from_model_type("tokenizer_class")?,
    };
    if let Some(class) = class {
        return Kind::from_class(&class)
            .ok_or_else(|| not_convertible(format!("its class is {class}")));
    }
    match from_model_type("model_type")? {
        Some(model) => Kind::from_model_type(&model)
            .ok_or_else(|| not_convertible(format!("its model type is {model:?}"))),
        None => Err(not_convertible(format!("{CONFIG} has no tokenizer_class"))),
    }
}

fn word_pieces(dir: &Path, config: &JsonFile, kind: Kind) -> Result<Value, Refusal> {
    let vocabulary = Vocabulary::from_lines(dir)?;
    refuse_settings(config, &[("do_basic_tokenize", json!(true)), ("never_split", json!([]))])?;
    let special = SpecialTokens::read(dir, config, kind)?;
    let (cls, cls_id) = vocabulary.token(special.cls()?)?;
    let (sep, sep_id) = vocabulary.token(special.sep()?)?;
    let (unk, _) = vocabulary.token(special.unk()?)?;
    let token = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |text: &str, kind: u32| json!({"Sequence": {"id": text, "type_id": kind}});
    let single = [token(cls, 0), text("A", 0), token(sep, 0)];
    let mut pair = single.to_vec();
    if kind == Kind::MpNet {
        pair.push(token(sep, 0));
    }
    pair.extend([text("B", 1), token(sep, 1)]);
    let entry = |token: &str, id: u32| json!({"id": token, "ids": [id], "tokens": [token]});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special.added(&vocabulary)?,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": config.get("tokenize_chinese_chars")?.unwrap_or(true),
            "strip_accents": config.get::<bool>("strip_accents")?,
            "lowercase": config.get("do_lower_case")?.unwrap_or(true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing", "single": single, "pair": pair,
            "special_tokens": {cls: entry(cls, cls_id), sep: entry(sep, sep_id)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": WORD_CHARS_MAX, "vocab": vocabulary.ids(),
        },
    }))
}

fn byte_pairs(dir: &Path, config: &JsonFile) -> Result<Value, Refusal> {
    let vocabulary = Vocabulary::from_json(dir)?;
    let merges = Merges::read(dir, &vocabulary)?;
    let special = SpecialTokens::read(dir, config, Kind::Roberta)?;
    let (cls, cls_id) = vocabulary.token(special.cls()?)?;
    let (sep, sep_id) = vocabulary.token(special.sep()?)?;
    let prefix: bool = config.get("add_prefix_space")?.unwrap_or(false);
    let trim: bool = config.get("trim_offsets")?.unwrap_or(true);
    let bytes = |prefix: bool| {
        json!({
            "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true,
            "use_regex": true,
        })
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special.added(&vocabulary)?,
        "normalizer": null,
        "pre_tokenizer": bytes(prefix),
        "post_processor": {
            "type": "RobertaProcessing", "sep": [sep, sep_id], "cls": [cls, cls_id],
            "trim_offsets": trim, "add_prefix_space": prefix,
        },
        "decoder": bytes(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary.ids(), "merges": merges.pairs(),
        },
    }))
}

/// Refuses settings that the two tokenizer variants of transformers treat differently, unless the
/// value makes no difference.
fn refuse_settings(config: &JsonFile, harmless: &[(&str, Value)]) -> Result<(), Refusal> {
    for (field, value) in harmless {
        if config.get::<Value>(field)?.is_some_and(|set| set != *value) {
            return Err(not_convertible(format!("{CONFIG} sets {field}")));
        }
    }
    Ok(())
}

/// Creates the refusal of a tokenizer that cannot be converted, with the command that creates the
/// file.
fn not_convertible(reason: impl Display) -> Refusal {
    contract(format!(
        "tokenizer.json is missing, and onnxd cannot create it: {reason}. Create it with: python \
         -c \"from transformers import AutoTokenizer; \
         AutoTokenizer.from_pretrained('DIR').save_pretrained('DIR')\""
    ))
}

#[cfg(test)]
#[path = "conversion_tests.rs"]
mod tests;
