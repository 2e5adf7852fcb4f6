//! Where things stand in the state directory, and what a generation's record says. The
//! supervisor writes all of it; workers read `generations/` and `versions/`.
//!
//! ```text
//! lock                       held with flock by the one supervisor that writes here
//! staging/<random>/          a version that is being copied; emptied at every start
//! versions/<sha256>/         a version: immutable, complete, known by its manifest's digest
//! compiled/<version>/        what the checker derived from a version; may be removed at any time
//! generations/<model>/<n>    one line of JSON: what generation n of the model is
//! quarantine/<model>/<sha256>  an empty file: this version failed its probation
//! ```

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    domain::{Record, model_name::ModelName},
    generation::Generation,
};

/// The file in a version's directory that lists all others; its SHA-256 names the version.
pub const MANIFEST: &str = "MANIFEST";

/// The state directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`; nothing is created.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The state directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file whose lock makes a supervisor the one writer.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Where versions are copied to before they are complete.
    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Where complete versions stand.
    pub fn versions(&self) -> PathBuf {
        self.root.join("versions")
    }

    /// One complete version.
    pub fn version(&self, version: &str) -> PathBuf {
        self.versions().join(version)
    }

    /// Where compiled forms stand, by version.
    pub fn compiled_root(&self) -> PathBuf {
        self.root.join("compiled")
    }

    /// Where the records of generations stand, by model.
    pub fn generations_root(&self) -> PathBuf {
        self.root.join("generations")
    }

    /// Everything that was compiled from one version; derived, and may be missing or stale.
    pub fn compiled(&self, version: &str) -> PathBuf {
        self.compiled_root().join(version)
    }

    /// The versions of a model that failed their probation: one empty file each.
    pub fn quarantine(&self, model: &ModelName) -> PathBuf {
        self.root.join("quarantine").join(model.as_str())
    }

    /// The records of one model's generations.
    pub fn generations(&self, model: &ModelName) -> PathBuf {
        self.generations_root().join(model.as_str())
    }

    /// The record of one generation.
    pub fn generation(&self, model: &ModelName, generation: Generation) -> PathBuf {
        self.generations(model).join(generation.to_string())
    }

    /// Reads what a generation is.
    ///
    /// # Errors
    /// The file is missing or is no record; the message names it.
    pub fn read_record(&self, model: &ModelName, generation: Generation) -> io::Result<Record> {
        let path = self.generation(model, generation);
        let name = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read(&path).map_err(|error| io::Error::new(error.kind(), name(&error)))?;
        serde_json::from_slice(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, name(&error)))
    }
}
