//! Reads the `config.json` of model2vec for static embeddings.

use std::path::Path;

use onnxd_proto::domain::Refusal;
use serde_json::Value;

use super::json::{JsonFile, contract, read_json};

/// The `model_type` of these models.
pub(crate) const MODEL_TYPE: &str = "model2vec";
/// Fields that no other library writes; later releases omit the `model_type`.
const OWN_FIELDS: [&str; 4] =
    ["embedding_dtype", "vocabulary_quantization", "apply_zipf", "apply_pca"];
/// model2vec's default limit of tokens per text.
const TOKENS_DEFAULT: u32 = 512;

/// The settings in model2vec's `config.json`. sentence-transformers writes no such file for these
/// models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Model2Vec {
    /// Whether embeddings are scaled to length 1.
    pub(crate) normalize: bool,
    /// The longest text in tokens; longer ones are cut. `None` means unlimited.
    pub(crate) max_tokens: Option<u32>,
}

impl Model2Vec {
    /// Reads the configuration of the version in `dir`; returns `None` if model2vec did not save
    /// it. model2vec drops unknown tokens after it cuts the text; sentence-transformers keeps them.
    ///
    /// # Errors
    /// The file is malformed.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, Refusal> {
        const FILE: &str = "config.json";
        let Some(Value::Object(fields)) = read_json(dir, FILE)? else { return Ok(None) };
        let says_no_limit = fields.get("max_length").is_some_and(Value::is_null);
        let file = JsonFile::new(FILE, fields);
        let is_named = file.get::<String>("model_type")?.as_deref() == Some(MODEL_TYPE);
        if !is_named && !OWN_FIELDS.iter().any(|field| file.keys().any(|key| key == *field)) {
            return Ok(None);
        }
        let max_tokens = match file.get::<u32>("max_length")? {
            None if says_no_limit => None,
            None => Some(TOKENS_DEFAULT),
            Some(0) => {
                return Err(contract(format!(
                    "{FILE}: max_length is 0; expected at least 1 or null"
                )));
            }
            tokens => tokens,
        };
        Ok(Some(Self { normalize: file.get("normalize")?.unwrap_or(false), max_tokens }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn with(config: &Value) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        dir
    }

    #[test]
    fn model2vec_config_has_its_defaults() {
        let read = |config: Value| Model2Vec::read(with(&config).path());
        let model = |normalize, max_tokens| Some(Model2Vec { normalize, max_tokens });
        assert_eq!(read(json!({"model_type": "bert"})).unwrap(), None);
        assert_eq!(read(json!({"model_type": "model2vec"})).unwrap(), model(false, Some(512)));
        let config = json!({"model_type": "model2vec", "normalize": true, "max_length": null});
        assert_eq!(read(config).unwrap(), model(true, None));
        let config = json!({"model_type": "model2vec", "max_length": 9});
        assert_eq!(read(config).unwrap(), model(false, Some(9)));
        for length in [json!(0), json!(-1), json!("9")] {
            let config = json!({"model_type": "model2vec", "max_length": length});
            assert!(read(config).unwrap_err().message.starts_with("config.json: max_length"));
        }
        assert_eq!(Model2Vec::read(tempfile::tempdir().unwrap().path()).unwrap(), None);
    }
}
