//! What a version says of itself in `onnxd.toml`, which has the last word. Read once when a version is
//! opened; the table of families and the families themselves look at it.

use std::{fs, io, path::Path};

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
    /// How scores become numbers between 0 and 1.
    pub(crate) activation: Option<Activation>,
    /// Tokens of the longest text.
    pub(crate) max_tokens: Option<u32>,
    /// The prompt for texts whose request names none.
    pub(crate) default_prompt_name: Option<String>,
    /// Which of the source's model files is the version's; applied when the source is listed.
    pub(crate) file: Option<String>,
    /// The same, by the kind of the file.
    pub(crate) variant: Option<String>,
    /// `false`: tensors of different requests never run together.
    pub(crate) batch: Option<bool>,
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
