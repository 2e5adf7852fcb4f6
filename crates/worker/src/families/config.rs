//! Reads `onnxd.toml`, whose settings override every other file of a version. It is read once when
//! a version is opened, for the table of families and for the families.

use std::{collections::BTreeMap, fs, io, path::Path};

use onnxd_proto::domain::{Activation, Pooling, Refusal, RefusalKind, Task};
use serde::Deserialize;

/// The file with the version's settings for onnxd.
const FILE: &str = "onnxd.toml";

/// The contents of `onnxd.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", default)]
pub(crate) struct ModelConfig {
    /// The model's task.
    pub(crate) task: Option<Task>,
    /// How token embeddings are pooled.
    pub(crate) pooling: Option<Pooling>,
    /// Whether embeddings are scaled to length 1.
    pub(crate) normalize: Option<bool>,
    /// The activation applied to scores.
    pub(crate) activation: Option<Activation>,
    /// The graph output to use.
    pub(crate) output: Option<String>,
    /// Values of the graph's switches, by input name.
    pub(crate) inputs: BTreeMap<String, Number>,
    /// The graph's file within the source, and which variant to take. Both apply when a version is
    /// staged, since a staged version holds one graph.
    pub(crate) file: Option<String>,
    pub(crate) variant: Option<String>,
    /// How a query and a document are joined: a Jinja template of `query`, `document` and
    /// `instruction`, the name of a built-in template, or `none`.
    pub(crate) template: Option<String>,
    /// Which of two labels marks a relevant document.
    pub(crate) relevant_label: Option<u32>,
    /// The tokens with which a generative reranker answers yes and no.
    pub(crate) true_token: Option<String>,
    pub(crate) false_token: Option<String>,
    /// Prompts that can be put before a text, by name.
    pub(crate) prompts: BTreeMap<String, String>,
    /// The longest text in tokens.
    pub(crate) max_tokens: Option<u32>,
    /// The prompt for requests that name none.
    pub(crate) default_prompt_name: Option<String>,
    /// If `false`, tensors of different requests never run together.
    pub(crate) batch: Option<bool>,
}

/// A number, or the model's name for one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Number(i64),
    Name(String),
}

impl ModelConfig {
    /// Reads the file in `dir`, or returns defaults if it does not exist.
    ///
    /// # Errors
    /// The file is malformed.
    pub(crate) fn read(dir: &Path) -> Result<Self, Refusal> {
        match fs::read_to_string(dir.join(FILE)) {
            Ok(text) => toml::from_str(&text)
                .map_err(|error| RefusalKind::Contract.because(format!("{FILE}: {error}"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(RefusalKind::Internal.because(format!("{FILE}: {error}"))),
        }
    }
}

/// Any of these files marks a text model, unless `onnxd.toml` sets another task.
const TEXT_FILES: [&str; 3] = ["tokenizer.json", "config.json", "modules.json"];

/// Returns whether the version in `dir` has files that only text models have.
pub(super) fn has_text_files(dir: &Path) -> bool {
    TEXT_FILES.iter().any(|file| dir.join(file).is_file())
}
