//! The JSON files of a version. Everything in them is a stranger's word, so that each error names the
//! file and the field.

use std::{
    fs, io,
    path::{Component, Path},
};

use onnxd_proto::domain::{Refusal, RefusalKind};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A JSON object and the name of its file, for messages.
pub(super) struct JsonFile {
    name: String,
    fields: Map<String, Value>,
}

impl JsonFile {
    /// An object within the file of this name.
    pub(super) fn of(name: &str, fields: Map<String, Value>) -> Self {
        Self { name: name.into(), fields }
    }

    /// `None` where there is no such file.
    pub(super) fn read(dir: &Path, name: &str) -> Result<Option<Self>, Refusal> {
        match read_json(dir, name)? {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self { name: name.into(), fields })),
            Some(_) => Err(contract(format!("{name} is not a JSON object"))),
        }
    }

    /// `None` where there is no such field, or null in it.
    pub(super) fn get<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>, Refusal> {
        let value = self.fields.get(field).cloned().unwrap_or_default();
        serde_json::from_value(value)
            .map_err(|error| contract(format!("{}: {field}: {error}", self.name)))
    }

    /// The names of the `pooling_mode_…` fields that are true, sorted.
    pub(super) fn modes(&self) -> Result<Vec<String>, Refusal> {
        let mut modes = Vec::new();
        for field in self.fields.keys() {
            if let Some(mode) = field.strip_prefix("pooling_mode_")
                && self.get(field)?.unwrap_or(false)
            {
                modes.push(mode.to_owned());
            }
        }
        modes.sort();
        Ok(modes)
    }
}

/// `None` where there is no such file. `name` may come from a file, so it must not leave `dir`.
pub(super) fn read_json(dir: &Path, name: &str) -> Result<Option<Value>, Refusal> {
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(contract(format!("{name:?} is no path within the version")));
    }
    match fs::read(dir.join(name)) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| contract(format!("{name} is not JSON: {error}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RefusalKind::Internal.because(format!("{name}: {error}"))),
    }
}

pub(super) fn contract(message: impl Into<String>) -> Refusal {
    RefusalKind::Contract.because(message)
}
