//! Defaults for settings that no file sets, by architecture and, where `config.json` has it, by
//! model name. Pure tables; each default is reported as a guess.

use onnxd_proto::domain::{PoolingMode, Refusal};

use super::json::JsonFile;

/// Parts of model names whose authors publish their pooling.
const BY_NAME: [(&str, PoolingMode); 35] = [
    ("qwen3-embedding", PoolingMode::LastToken),
    ("gte-qwen", PoolingMode::LastToken),
    ("e5-mistral", PoolingMode::LastToken),
    ("sfr-embedding", PoolingMode::LastToken),
    ("linq-embed", PoolingMode::LastToken),
    ("nomic-embed-code", PoolingMode::LastToken),
    ("jina-embeddings-v4", PoolingMode::Mean),
    ("jina-embeddings", PoolingMode::Mean),
    ("bge-", PoolingMode::Cls),
    ("gte-modernbert", PoolingMode::Cls),
    ("gte-multilingual", PoolingMode::Cls),
    ("gte-base-en-v1.5", PoolingMode::Cls),
    ("gte-large-en-v1.5", PoolingMode::Cls),
    ("arctic-embed", PoolingMode::Cls),
    ("mxbai-embed", PoolingMode::Cls),
    ("granite-embedding", PoolingMode::Cls),
    ("uae-large", PoolingMode::Cls),
    ("ember-v1", PoolingMode::Cls),
    ("labse", PoolingMode::Cls),
    ("multi-qa-mpnet-base-dot", PoolingMode::Cls),
    ("multi-qa-distilbert-dot", PoolingMode::Cls),
    ("msmarco-bert-base-dot", PoolingMode::Mean),
    ("simcse", PoolingMode::Cls),
    ("sapbert", PoolingMode::Cls),
    ("specter", PoolingMode::Cls),
    ("sgpt", PoolingMode::WeightedMean),
    ("gte-", PoolingMode::Mean),
    ("e5-", PoolingMode::Mean),
    ("minilm", PoolingMode::Mean),
    ("mpnet", PoolingMode::Mean),
    ("nomic-embed", PoolingMode::Mean),
    ("embeddinggemma", PoolingMode::Mean),
    ("gtr-t5", PoolingMode::Mean),
    ("sentence-t5", PoolingMode::Mean),
    ("paraphrase-", PoolingMode::Mean),
];
/// Causal architectures: only the last token has seen the whole text.
const DECODERS: [&str; 18] = [
    "qwen2",
    "qwen3",
    "llama",
    "mistral",
    "ministral",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "opt",
    "bloom",
    "falcon",
    "olmo2",
    "smollm3",
];
/// The architecture of Alibaba's gte models v1.5, which use the first token.
const GTE: &str = "new";

/// Returns the pooling to assume for this `config.json`, and the reason.
///
/// # Errors
/// A field is malformed.
pub(crate) fn pooling(config: &JsonFile) -> Result<(PoolingMode, String), Refusal> {
    let name = name(config)?;
    let is_decoder = is_decoder(config)?;
    // A decoder's first token has seen only itself.
    let fits = |mode: PoolingMode| !is_decoder || mode != PoolingMode::Cls;
    let named = BY_NAME.iter().find(|(part, mode)| name.contains(part) && fits(*mode));
    if let Some((part, mode)) = named {
        return Ok((*mode, format!("models named {part}… use it")));
    }
    let model_type: String = config.get("model_type")?.unwrap_or_default();
    if is_decoder {
        let reason = format!("{model_type} is a decoder");
        return Ok((PoolingMode::LastToken, reason));
    }
    if model_type == GTE {
        return Ok((PoolingMode::Cls, "models of this architecture use it".into()));
    }
    Ok((PoolingMode::Mean, "no file sets it, and most encoders use it".into()))
}

/// Returns whether a model uses causal attention.
///
/// # Errors
/// A field is malformed.
pub(crate) fn is_decoder(config: &JsonFile) -> Result<bool, Refusal> {
    let model_type: String = config.get("model_type")?.unwrap_or_default();
    let both_ways: bool = config.get("use_bidirectional_attention")?.unwrap_or(false);
    Ok(DECODERS.contains(&model_type.as_str()) && !both_ways)
}

/// Returns the name under which the model was loaded when it was saved, or an empty name if the
/// file lacks it. Directories are removed from the name.
///
/// # Errors
/// A field is malformed.
pub(crate) fn name(config: &JsonFile) -> Result<String, Refusal> {
    let path: String = config.get("_name_or_path")?.unwrap_or_default();
    Ok(path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mode(config: Value) -> PoolingMode {
        let Value::Object(fields) = config else { panic!("no object") };
        pooling(&JsonFile::new("config.json", fields)).unwrap().0
    }

    #[test]
    fn pooling_is_assumed_by_name_then_by_architecture() {
        for (config, expected) in [
            (json!({}), PoolingMode::Mean),
            (json!({"model_type": "bert", "_name_or_path": "BAAI/bge-small-en"}), PoolingMode::Cls),
            (json!({"model_type": "bert", "_name_or_path": "/x/e5-small"}), PoolingMode::Mean),
            (json!({"model_type": "qwen3"}), PoolingMode::LastToken),
            (json!({"model_type": "new"}), PoolingMode::Cls),
            (
                json!({"model_type": "gemma3_text", "use_bidirectional_attention": true}),
                PoolingMode::Mean,
            ),
        ] {
            assert_eq!(mode(config.clone()), expected, "{config}");
        }
    }
}
