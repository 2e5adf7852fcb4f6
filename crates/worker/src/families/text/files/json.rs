//! The JSON files of a version. Everything in them is a stranger's word, so that each error names the
//! file and the field.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use onnxd_proto::domain::{Refusal, RefusalKind};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Bytes of one JSON file. The largest are tokenizers, which are read elsewhere.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// How the pointers of Git LFS begin.
const LFS: &[u8] = b"version https://git-lfs";

/// A JSON object and the name of its file, for messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct JsonFile {
    name: String,
    fields: Map<String, Value>,
}

impl JsonFile {
    /// An object within the file of this name.
    pub(crate) fn of(name: &str, fields: Map<String, Value>) -> Self {
        Self { name: name.into(), fields }
    }

    /// `None` where there is no such file.
    ///
    /// # Errors
    /// It is no JSON object, or cannot be read.
    pub(crate) fn read(dir: &Path, name: &str) -> Result<Option<Self>, Refusal> {
        match read_json(dir, name)? {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self { name: name.into(), fields })),
            Some(_) => Err(contract(format!("{name} is not a JSON object"))),
        }
    }

    /// The file's name within the version.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `None` where there is no such field, or null in it.
    ///
    /// # Errors
    /// It is of another type.
    pub(crate) fn get<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>, Refusal> {
        let value = self.fields.get(field).cloned().unwrap_or_default();
        serde_json::from_value(value)
            .map_err(|error| contract(format!("{}: {field}: {error}", self.name)))
    }

    /// The object in a field.
    ///
    /// # Errors
    /// It is no object.
    pub(crate) fn object(&self, field: &str) -> Result<Option<Self>, Refusal> {
        let fields = self.get(field)?;
        Ok(fields.map(|fields| Self::of(&format!("{}: {field}", self.name), fields)))
    }

    /// Names of fields.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }
}

/// The name of a file in a folder, both relative to the version. Folders may be written as `.`.
pub(crate) fn join(folder: &str, name: &str) -> String {
    let folder = folder.trim_start_matches("./").trim_matches('/');
    match folder {
        "" | "." => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// The path of a name that may come from a file.
///
/// # Errors
/// It leaves `dir`.
pub(crate) fn within(dir: &Path, name: &str) -> Result<PathBuf, Refusal> {
    if Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(dir.join(name));
    }
    Err(contract(format!("{name:?} is no path within the version")))
}

/// Reads a file of text. `None` where there is no such file.
///
/// # Errors
/// It is too large, no UTF-8, or cannot be read.
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

/// Sees to it that a file is not the pointer that Git LFS leaves in its place.
///
/// # Errors
/// It is.
pub(crate) fn require_content(name: &str, bytes: &[u8]) -> Result<(), Refusal> {
    match bytes.starts_with(LFS) {
        true => Err(contract(format!(
            "{name} is a pointer of Git LFS, not the file itself: run `git lfs pull`, or download it"
        ))),
        false => Ok(()),
    }
}

/// `None` where there is no such file.
///
/// # Errors
/// It is not JSON, or cannot be read.
pub(crate) fn read_json(dir: &Path, name: &str) -> Result<Option<Value>, Refusal> {
    let Some(text) = read_text(dir, name)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| contract(format!("{name} is not JSON: {error}")))
}

/// Whether there is no such file, or a file where a folder would have to be.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A refusal of what a version's files say.
pub(crate) fn contract(message: impl Into<String>) -> Refusal {
    RefusalKind::Contract.because(message)
}
