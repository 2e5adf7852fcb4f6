//! Reads a state directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::home::Home;

/// The state directory of a home. Each call reads it again.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
}

/// The fields of a generation record that tests use.
#[derive(Deserialize)]
struct Record {
    version: String,
}

impl Disk {
    /// Returns the state directory of this home.
    pub fn new(home: &Home) -> Self {
        Self::at(&home.state())
    }

    /// Returns the state directory at this path.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// Returns the names in `versions/`.
    pub fn versions(&self) -> BTreeSet<String> {
        names(&self.root.join("versions"))
    }

    /// Returns the names in `compiled/`.
    pub fn compiled(&self) -> BTreeSet<String> {
        names(&self.root.join("compiled"))
    }

    /// Returns the names in `staging/`.
    pub fn staging(&self) -> BTreeSet<String> {
        names(&self.root.join("staging"))
    }

    /// Returns the directory of a version.
    pub fn version(&self, version: &str) -> PathBuf {
        self.root.join("versions").join(version)
    }

    /// Returns the compiled form of a version: the only directory with a model.
    ///
    /// # Panics
    /// Panics unless there is exactly one.
    pub fn compiled_form(&self, version: &str) -> PathBuf {
        let directory = self.root.join("compiled").join(version);
        let forms: Vec<PathBuf> = names(&directory)
            .iter()
            .map(|name| directory.join(name))
            .filter(|path| path.join("model.onnx").is_file())
            .collect();
        assert_eq!(forms.len(), 1, "{forms:?}");
        forms.into_iter().next().unwrap()
    }

    /// Returns the versions in a model's records, by generation.
    ///
    /// # Panics
    /// Panics if a record is damaged or there is a foreign file.
    pub fn generations(&self, model: &str) -> BTreeMap<u64, String> {
        let directory = self.root.join("generations").join(model);
        let record = |name: String| {
            let text = match fs::read(directory.join(&name)) {
                // A running server may have removed it since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                text => text.unwrap(),
            };
            let record: Record = serde_json::from_slice(&text)
                .unwrap_or_else(|error| panic!("{name}: {error}: {text:?}"));
            Some((name.parse().unwrap(), record.version))
        };
        names(&directory).into_iter().filter_map(record).collect()
    }

    /// Returns unneeded entries, one line each: partial files, versions that no record names, and
    /// compiled forms without such a version.
    pub fn leftovers(&self) -> Vec<String> {
        let models = names(&self.root.join("generations"));
        let records = models.iter().flat_map(|model| self.generations(model).into_values());
        let named: BTreeSet<String> = records.collect();
        let (versions, compiled) = (self.versions(), self.compiled());
        let needed: BTreeSet<String> = versions.intersection(&named).cloned().collect();
        let mut left: Vec<String> =
            self.staging().into_iter().map(|name| format!("staging/{name}")).collect();
        left.extend(versions.difference(&named).map(|name| format!("versions/{name}")));
        left.extend(compiled.difference(&needed).map(|name| format!("compiled/{name}")));
        for version in compiled {
            let parts = names(&self.root.join("compiled").join(&version));
            let half = parts.iter().filter(|name| name.starts_with("making-"));
            left.extend(half.map(|name| format!("compiled/{version}/{name}")));
        }
        left
    }
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
