//! Determines the longest text from a version's files: the positions of the model and the limits of
//! the tokenizer and of sentence-transformers. Called by [`super::config`].
//! [`longest`](crate::families::text::longest) finds whether such a text fits this machine.

use onnxd_proto::domain::Refusal;

use super::{
    Files,
    json::{JsonFile, contract},
    model2vec::Model2Vec,
};

/// The default if no file limits the length.
const TOKENS_DEFAULT: u64 = 512;
/// The largest accepted length; a larger number in a file means "no limit".
const TOKENS_MAX: u64 = 131_072;

/// Fields of `config.json` with the number of positions, the usual one first.
const POSITIONS: [&str; 2] = ["max_position_embeddings", "n_positions"];
/// Fields of `tokenizer_config.json` with the longest text; older releases use the second.
const TOKENIZER_LIMITS: [&str; 2] = ["model_max_length", "max_len"];

/// Model types that number a text's tokens from `pad_token_id + 1` on. Positions up to
/// `pad_token_id` hold no token.
const OFFSET_BY_PADDING: [&str; 14] = [
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
];
/// `pad_token_id` of these types if `config.json` omits it.
const PADDING_DEFAULT: u64 = 1;
/// MPNet uses a fixed number, whatever its `pad_token_id`.
const MPNET: (&str, u64) = ("mpnet", 1);
/// The position type with one table entry per position. Other types encode the distance between
/// tokens.
const ABSOLUTE: &str = "absolute";

/// Returns the longest text in tokens, special tokens included.
///
/// # Errors
/// A file is malformed, or leaves no room for a text.
pub(super) fn max_tokens(files: &Files<'_>) -> Result<u32, Refusal> {
    let positions = positions(&files.config)?;
    let wanted = match files.model_config.max_tokens.map(u64::from) {
        Some(tokens) => Some(tokens),
        None => files.transformer.get("max_seq_length")?,
    };
    let wanted = match wanted {
        Some(tokens) => Some(tokens),
        None => tokenizer_limit(&files.tokenizer)?.or(table_limit(files)?).or(positions),
    };
    if let (Some(max_tokens), Some(positions)) = (files.model_config.max_tokens, positions)
        && u64::from(max_tokens) > positions
    {
        return Err(contract(format!(
            "onnxd.toml: max_tokens = {max_tokens} exceeds the {positions} positions of \
             config.json; set at most {positions}"
        )));
    }
    let tokens = wanted.unwrap_or(TOKENS_DEFAULT).min(positions.unwrap_or(TOKENS_MAX));
    match u32::try_from(tokens.min(TOKENS_MAX)) {
        Ok(tokens) if tokens > 0 => Ok(tokens),
        _ => Err(contract(
            "max_tokens in onnxd.toml, max_seq_length in sentence_bert_config.json or \
             max_position_embeddings in config.json is 0; expected at least 1",
        )),
    }
}

/// Returns the limit of a table: the one in its file, else the maximum.
fn table_limit(files: &Files<'_>) -> Result<Option<u64>, Refusal> {
    if !super::is_table(files.dir)? {
        return Ok(None);
    }
    let declared = Model2Vec::read(files.dir)?.and_then(|table| table.max_tokens);
    Ok(Some(declared.map_or(TOKENS_MAX, u64::from)))
}

/// Returns how many tokens the model has positions for, if `config.json` sets it.
fn positions(config: &JsonFile) -> Result<Option<u64>, Refusal> {
    let kind: String = config.get("model_type")?.unwrap_or_default();
    let padding = padding(config)?;
    // Their attention encodes the distance between tokens, whatever the field contains.
    if kind.contains("t5") {
        return Ok(None);
    }
    for field in POSITIONS {
        if let Some(all) = config.get::<u64>(field)? {
            return usable(all, padding).map(Some).ok_or_else(|| {
                let padding = padding.unwrap_or(0);
                contract(format!(
                    "config.json: {field} is {all} and pad_token_id {padding}, which leaves no \
                     position for a token"
                ))
            });
        }
    }
    Ok(None)
}

/// Returns the last position that holds no token, for models that reserve positions.
fn padding(config: &JsonFile) -> Result<Option<u64>, Refusal> {
    let kind: Option<String> = config.get("model_type")?;
    let kind = kind.unwrap_or_default();
    if OFFSET_BY_PADDING.contains(&&*kind) {
        let relative: Option<String> = config.get("position_embedding_type")?;
        let is_absolute = relative.is_none_or(|kind| kind == ABSOLUTE);
        let padding = config.get::<i64>("pad_token_id")?;
        let padding = padding.map_or(PADDING_DEFAULT, |id| u64::try_from(id).unwrap_or(0));
        Ok(is_absolute.then_some(padding))
    } else {
        Ok((kind == MPNET.0).then_some(MPNET.1))
    }
}

/// Returns the position of a text's first token.
///
/// # Errors
/// `config.json` is malformed.
pub(crate) fn first_position(config: &JsonFile) -> Result<i64, Refusal> {
    let padding = padding(config)?;
    Ok(padding.map_or(0, |padding| i64::try_from(padding.saturating_add(1)).unwrap_or(0)))
}

/// Returns how many of `all` positions can hold tokens, if any. `padding` is the last one that
/// cannot.
fn usable(all: u64, padding: Option<u64>) -> Option<u64> {
    let unused = padding.map_or(0, |padding| padding.saturating_add(1));
    all.checked_sub(unused).filter(|&positions| positions > 0)
}

/// Returns the tokenizer's own limit. Tokenizers without one set a number like 10^30.
pub(super) fn tokenizer_limit(file: &JsonFile) -> Result<Option<u64>, Refusal> {
    for field in TOKENIZER_LIMITS {
        let limit = file.get::<serde_json::Number>(field)?;
        let limit = limit.and_then(|limit| limit.as_u64()).filter(|&limit| limit <= TOKENS_MAX);
        if limit.is_some() {
            return Ok(limit);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::families::config::ModelConfig;

    type TestFiles<'a> = &'a [(&'a str, &'a str)];

    fn found(files: TestFiles<'_>, max_tokens: Option<u32>) -> Result<u32, Refusal> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let model_config = ModelConfig { max_tokens, ..ModelConfig::default() };
        super::max_tokens(&Files::read(dir.path(), &model_config)?)
    }

    #[test]
    fn positions_up_to_the_padding_id_are_unusable() {
        let roberta =
            r#"{"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}"#;
        let config_of = |kind: &str| roberta.replace("\"roberta\"", &format!("\"{kind}\""));
        for kind in OFFSET_BY_PADDING.iter().chain([&"mpnet"]) {
            assert_eq!(found(&[("config.json", &config_of(kind))], None).unwrap(), 64, "{kind}");
        }
        for kind in ["bert", "distilbert", "xlm-roberta-unknown"] {
            assert_eq!(found(&[("config.json", &config_of(kind))], None).unwrap(), 66, "{kind}");
        }
        let zero = roberta.replace("_id\": 1", "_id\": 0");
        assert_eq!(found(&[("config.json", &zero)], None).unwrap(), 65);
        let without_pad_id = roberta.replace(r#", "pad_token_id": 1"#, "");
        assert_eq!(found(&[("config.json", &without_pad_id)], None).unwrap(), 64);
        let null = roberta.replace("_id\": 1", "_id\": null");
        assert_eq!(found(&[("config.json", &null)], None).unwrap(), 64);
        let relative = roberta.replace("66,", r#"66, "position_embedding_type": "relative_key","#);
        assert_eq!(found(&[("config.json", &relative)], None).unwrap(), 66);
    }

    #[test]
    fn usable_positions_cap_every_other_length() {
        let config = (
            "config.json",
            r#"{"model_type": "xlm-roberta", "max_position_embeddings": 66, "pad_token_id": 1}"#,
        );
        let tokenizer = |text| ("tokenizer_config.json", text);
        let cases: [(TestFiles<'_>, Option<u32>, u32); 8] = [
            (&[config], None, 64),
            (&[config, tokenizer(r#"{"model_max_length": 1e30}"#)], None, 64),
            (
                &[config, tokenizer(r#"{"model_max_length": 1000000000000000019884624838656}"#)],
                None,
                64,
            ),
            (&[config, tokenizer(r#"{"max_len": 62}"#)], None, 62),
            (&[config, tokenizer(r#"{"max_len": 66}"#)], None, 64),
            (&[config, ("sentence_bert_config.json", r#"{"max_seq_length": 66}"#)], None, 64),
            (&[config], Some(60), 60),
            (&[("config.json", r#"{"n_positions": 8192}"#)], None, 8192),
        ];
        for (files, max_tokens, expected) in cases {
            assert_eq!(found(files, max_tokens).unwrap(), expected, "{files:?}");
        }
    }

    #[test]
    fn too_few_positions_are_refused_with_both_fields() {
        let config = r#"{"model_type": "roberta", "max_position_embeddings": 2}"#;
        let refusal = found(&[("config.json", config)], None).unwrap_err();
        for word in ["config.json", "max_position_embeddings is 2", "pad_token_id 1"] {
            assert!(refusal.message.contains(word), "{word}: {refusal}");
        }
        let zero = found(&[("config.json", r#"{"max_position_embeddings": 0}"#)], None);
        assert!(zero.unwrap_err().message.contains("max_position_embeddings"));
    }
}
