//! Reads the JSON files of a version. Their content is untrusted, so each error names the file and
//! the field.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use onnxd_proto::domain::{Refusal, RefusalKind};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Maximum size of a JSON file in bytes. Tokenizers are larger and are read elsewhere.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The start of a Git LFS pointer.
const LFS: &[u8] = b"version https://git-lfs";

/// A JSON object and its file name, for messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct JsonFile {
    name: String,
    fields: Map<String, Value>,
}

impl JsonFile {
    /// Wraps an object from the file of this name.
    pub(crate) fn new(name: &str, fields: Map<String, Value>) -> Self {
        Self { name: name.into(), fields }
    }

    /// Reads the object in a file. Returns `None` if the file does not exist.
    ///
    /// # Errors
    /// The file is not a JSON object, or cannot be read.
    pub(crate) fn read(dir: &Path, name: &str) -> Result<Option<Self>, Refusal> {
        match read_json(dir, name)? {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self { name: name.into(), fields })),
            Some(_) => Err(contract(format!("{name} is not a JSON object"))),
        }
    }

    /// Returns the file's name within the version.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Reads a field. Returns `None` if it is missing or null.
    ///
    /// # Errors
    /// The field has another type.
    pub(crate) fn get<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>, Refusal> {
        let value = self.fields.get(field).cloned().unwrap_or_default();
        serde_json::from_value(value)
            .map_err(|error| contract(format!("{}: {field}: {error}", self.name)))
    }

    /// Returns the object in a field.
    ///
    /// # Errors
    /// The field is not an object.
    pub(crate) fn object(&self, field: &str) -> Result<Option<Self>, Refusal> {
        let fields = self.get(field)?;
        Ok(fields.map(|fields| Self::new(&format!("{}: {field}", self.name), fields)))
    }

    /// Returns the names of the fields.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }
}

/// Joins a folder and a file name, both relative to the version. The folder may be `.`.
pub(crate) fn join(folder: &str, name: &str) -> String {
    let folder = folder.trim_start_matches("./").trim_matches('/');
    match folder {
        "" | "." => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// Resolves a name that may come from a file.
///
/// # Errors
/// The path leaves `dir`.
pub(crate) fn within(dir: &Path, name: &str) -> Result<PathBuf, Refusal> {
    if Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(dir.join(name));
    }
    Err(contract(format!("{name:?} is not a path within the version")))
}

/// Reads a text file. Returns `None` if it does not exist.
///
/// # Errors
/// The file is too large, is not UTF-8, or cannot be read.
pub(crate) fn read_text(dir: &Path, name: &str) -> Result<Option<String>, Refusal> {
    let path = within(dir, name)?;
    let internal = |error: io::Error| RefusalKind::Internal.because(format!("{name}: {error}"));
    match fs::metadata(&path) {
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            return Err(contract(format!("{name} has more than {FILE_BYTES_MAX} bytes")));
        }
        Ok(_) => {}
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(internal(error)),
    }
    let bytes = fs::read(&path).map_err(internal)?;
    require_content(name, &bytes)?;
    String::from_utf8(bytes).map(Some).map_err(|_| contract(format!("{name} is not UTF-8")))
}

/// Checks that a file is not a Git LFS pointer.
///
/// # Errors
/// The file is a pointer.
pub(crate) fn require_content(name: &str, bytes: &[u8]) -> Result<(), Refusal> {
    match bytes.starts_with(LFS) {
        true => Err(contract(format!(
            "{name} is a Git LFS pointer, not the file itself: run `git lfs pull`, or download the \
             file"
        ))),
        false => Ok(()),
    }
}

/// Reads a JSON file. Returns `None` if it does not exist.
///
/// # Errors
/// The file is not JSON, or cannot be read.
pub(crate) fn read_json(dir: &Path, name: &str) -> Result<Option<Value>, Refusal> {
    let Some(text) = read_text(dir, name)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| contract(format!("{name} is not JSON: {error}")))
}

/// Returns whether the file does not exist, or a parent is not a folder.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Creates a refusal caused by a version's files.
pub(crate) fn contract(message: impl Into<String>) -> Refusal {
    RefusalKind::Contract.because(message)
}
