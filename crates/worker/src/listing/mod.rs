//! Finds a source's model file ([`choose`], [`variants`]) and the files with its weights, for the
//! supervisor, which parses no model file. Called by `onnxd-worker list`, which is confined to the
//! source. Runs no model and reads no weights.

mod choose;
mod folder;
mod variants;

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use onnxd_proto::domain::{FileStamp, ListedModel, Listing, ModelChoice, Refusal, RefusalKind};
use serde::{Deserialize, de::DeserializeOwned};

use self::{
    choose::{Chosen, choose},
    folder::Folder,
    variants::Cpu,
};
use crate::artifacts::external::external_files;

/// The file with a source's own settings.
const SETTINGS_FILE: &str = "onnxd.toml";
/// Maximum bytes of a settings file. A longer one is ignored here and handled by the check.
const SETTINGS_BYTES_MAX: u64 = 1 << 20;
/// The beginning of the placeholder for a large file in a clone without Git LFS.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// The weights of static embeddings.
const STATIC_WEIGHTS: &str = "model.safetensors";

/// The settings that choose the model file. The check reads the others.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChoiceSettings {
    file: Option<String>,
    variant: Option<String>,
}

/// Finds the files of a source's model. `choice` comes from the source's URI.
///
/// # Errors
/// The source has no model file, or several without a choice; the chosen file or a file with its
/// weights is missing. Each error names the file.
pub(crate) fn list(dir: &Path, choice: &ModelChoice) -> Result<Listing, Refusal> {
    let folder = Folder::read(dir)?;
    let (choice, by) = match choice {
        ModelChoice::Unstated => (configured_choice(&folder)?, SETTINGS_FILE),
        stated => (stated.clone(), "the source's URI"),
    };
    if choice == ModelChoice::Unstated && is_static(&folder) {
        let weights = folder.files_named(STATIC_WEIGHTS);
        if let Some(file) = weights.first() {
            let notes = vec![format!("static embeddings: reading the weights from {file}")];
            return Ok(Listing { notes, ..Listing::default() });
        }
        if folder.models().is_empty() {
            let message = format!("{STATIC_WEIGHTS} is missing; static embeddings need it");
            return Err(RefusalKind::Contract.because(message));
        }
    }
    let Chosen { file, reason } = choose(folder.models(), &choice, by, Cpu::detect())?;
    let model = folder.open(&file)?;
    refuse_pointer(&file, &model)?;
    let read = |error: io::Error| RefusalKind::Internal.because(format!("{file}: {error}"));
    let stamp = FileStamp::from(&model.metadata().map_err(read)?);
    let external = external_files(dir, &file, &model)?;
    let mut notes = Vec::new();
    if let Some(at) = external.damaged_at {
        notes.push(format!("{file} is damaged at byte {at}: weights files may be missing"));
    }
    if let [tokenizer] = &*folder.files_named("tokenizer.json")
        && tokenizer.contains('/')
    {
        notes.push(format!("the tokenizer is {tokenizer}"));
    }
    let model =
        Some(ListedModel { file, is_stated: choice != ModelChoice::Unstated, reason, stamp });
    Ok(Listing { model, external: external.files, notes })
}

/// Reads the choice of the model file from `onnxd.toml`.
fn configured_choice(folder: &Folder) -> Result<ModelChoice, Refusal> {
    let invalid = |reason: &dyn std::fmt::Display| {
        RefusalKind::Contract.because(format!("{SETTINGS_FILE}: {reason}"))
    };
    let Some(text) = folder.read_text(SETTINGS_FILE)? else { return Ok(ModelChoice::Unstated) };
    let settings: ChoiceSettings = toml::from_str(&text).map_err(|error| invalid(&error))?;
    match (settings.file, settings.variant) {
        (None, None) => Ok(ModelChoice::Unstated),
        (Some(file), None) => ModelChoice::file(&file)
            .map_err(|reason| invalid(&format!("file = {file:?}: {reason}"))),
        (None, Some(name)) => ModelChoice::variant(&name)
            .map_err(|reason| invalid(&format!("variant = {name:?}: {reason}"))),
        (Some(_), Some(_)) => Err(invalid(&"set `file` or `variant`, not both")),
    }
}

/// Returns whether the source holds static embeddings, which need no graph.
fn is_static(folder: &Folder) -> bool {
    #[derive(Deserialize)]
    struct Module {
        #[serde(rename = "type")]
        class: String,
    }
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        model_type: String,
    }
    let modules: Vec<Module> = json(folder, "modules.json").unwrap_or_default();
    let has = |class: &str| modules.iter().any(|module| module.class.ends_with(class));
    let config: Option<Config> = json(folder, "config.json");
    has(".StaticEmbedding") && !has("Transformer")
        || config.is_some_and(|config| config.model_type == "model2vec")
}

/// Reads a settings file if it exists and is well formed. The check reports errors in it.
fn json<T: DeserializeOwned>(folder: &Folder, file: &str) -> Option<T> {
    serde_json::from_str(&folder.read_text(file).ok()??).ok()
}

/// Refuses the placeholder of a file that Git LFS has not fetched.
fn refuse_pointer(name: &str, mut file: &File) -> Result<(), Refusal> {
    let mut head = [0; LFS_POINTER.len()];
    // A file that is shorter or unreadable is not a pointer.
    let is_pointer = file.read_exact(&mut head).is_ok() && head == LFS_POINTER;
    let rewound = io::Seek::rewind(&mut file);
    rewound.map_err(|error| RefusalKind::Internal.because(format!("{name}: {error}")))?;
    if is_pointer {
        let message = format!("{name} is a Git LFS pointer, not the file; run `git lfs pull`");
        return Err(RefusalKind::Contract.because(message));
    }
    Ok(())
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
