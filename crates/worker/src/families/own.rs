//! What a version says of itself in `onnxd.toml`, which has the last word. Read once when a version is
//! opened; the table of families and the families themselves look at it.

use std::{collections::BTreeMap, fs, io, path::Path};

use onnxd_proto::domain::{Activation, Pooling, Refusal, RefusalKind, Task};
use serde::Deserialize;

/// The file in which a version says what others do not, or say wrongly.
const OWN: &str = "onnxd.toml";

/// What `onnxd.toml` may say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", default)]
pub(crate) struct Own {
    /// What the model is for.
    pub(crate) task: Option<Task>,
    /// How token embeddings become one.
    pub(crate) pooling: Option<Pooling>,
    /// Whether embeddings have length 1.
    pub(crate) normalize: Option<bool>,
    /// What becomes of scores.
    pub(crate) activation: Option<Activation>,
    /// The output of the graph that is used.
    pub(crate) output: Option<String>,
    /// What is fed to numbers that change what the graph computes, by their names.
    pub(crate) inputs: BTreeMap<String, Number>,
    /// The file of the graph within the source, and which of several is taken. Both are for whoever
    /// stages the version: it holds one graph.
    pub(crate) file: Option<String>,
    pub(crate) variant: Option<String>,
    /// How a query and a document are put together: a Jinja template of `query`, `document` and
    /// `instruction`, or the name of one that onnxd knows, or `none`.
    pub(crate) template: Option<String>,
    /// Which of two labels says that a document is relevant.
    pub(crate) relevant_label: Option<u32>,
    /// The token with which such a model says yes, and the one with which it says no.
    pub(crate) true_token: Option<String>,
    pub(crate) false_token: Option<String>,
    /// What may be put before a text, by name.
    pub(crate) prompts: BTreeMap<String, String>,
    /// Tokens of the longest text.
    pub(crate) max_tokens: Option<u32>,
    /// The prompt for texts whose request names none.
    pub(crate) default_prompt_name: Option<String>,
    /// `false`: tensors of different requests never run together.
    pub(crate) batch: Option<bool>,
}

/// A number, or the model's word for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Number(i64),
    Word(String),
}

impl Own {
    /// Reads the file in `dir`, if there is one.
    ///
    /// # Errors
    /// It is malformed.
    pub(crate) fn read(dir: &Path) -> Result<Self, Refusal> {
        match fs::read_to_string(dir.join(OWN)) {
            Ok(text) => toml::from_str(&text)
                .map_err(|error| RefusalKind::Contract.because(format!("{OWN}: {error}"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(RefusalKind::Internal.because(format!("{OWN}: {error}"))),
        }
    }
}

/// A directory with any of these is a model for texts, if its `onnxd.toml` does not say otherwise.
const TEXT_FILES: [&str; 3] = ["tokenizer.json", "config.json", "modules.json"];

/// Whether the version in `dir` has files that only models for texts have.
pub(super) fn has_text_files(dir: &Path) -> bool {
    TEXT_FILES.iter().any(|file| dir.join(file).is_file())
}
