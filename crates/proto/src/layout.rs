//! Paths in the state directory and the format of a generation's record. The supervisor writes all
//! of it; workers read `generations/` and `versions/`.
//!
//! ```text
//! lock                       held with flock by the supervisor that owns the directory
//! staging/<random>/          a version being copied; emptied at every start
//! snapshots/<source>         what a remote source held last, as JSON
//! watched/<model>            what the watcher of a model's source saw last, as JSON
//! downloads/<source>/        files of a remote source, kept until its version is staged
//! versions/<sha256>/         a version: immutable, complete, named by its manifest's digest
//! compiled/<version>/        derived from a version; may be deleted at any time
//! generations/<model>/<n>    one line of JSON: the record of generation n of the model
//! quarantine/<model>/<sha256>  an empty file: this version failed its probation
//! damaged/                   what `onnxd state repair` set aside, under the paths that it had
//! ```
//!
//! `<model>` is the [folder](ModelName::folder) of a name, in which `%2F` stands for a slash.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    domain::{Record, model_name::ModelName},
    generation::{GENERATION_MAX, Generation},
    regular,
};

/// A version's list of its other files; the SHA-256 of this file names the version.
pub const MANIFEST: &str = "MANIFEST";
/// Maximum bytes of a manifest.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// Maximum bytes of a record. The checker's output, which it holds, is shorter.
pub const RECORD_BYTES_MAX: u64 = 4 << 20;
/// Files of a version that are larger are weights. A start compares their metadata, and their content
/// only if that has changed.
pub const LARGE_BYTES: u64 = 64 << 20;

/// Returns whether a path below a version is hidden. File systems and editors create such files, and no
/// worker reads one that its manifest does not list.
pub fn is_hidden(path: &Path) -> bool {
    path.iter().any(|part| part.as_encoded_bytes().starts_with(b"."))
}

/// Creates a directory and its parents.
///
/// # Errors
/// `NotADirectory` if a file is in its way; otherwise the system's error.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            io::ErrorKind::NotADirectory.into()
        }
        _ => error,
    })
}

/// Paths in the state directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Creates the layout below `root` without touching the file system.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns the state directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the lock file. The supervisor that holds its lock is the only writer.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Returns the directory for versions that are still being copied.
    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Returns the directory of what remote sources held last, by source.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Returns the directory of what the watchers of sources saw last, by model.
    pub fn watched_root(&self) -> PathBuf {
        self.root.join("watched")
    }

    /// Returns the record of what the watcher of a model's source saw last.
    pub fn watched(&self, model: &ModelName) -> PathBuf {
        self.watched_root().join(model.folder())
    }

    /// Returns the directory of unfinished downloads, by source.
    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// Returns the directory of complete versions.
    pub fn versions(&self) -> PathBuf {
        self.root.join("versions")
    }

    /// Returns the directory of one complete version.
    pub fn version(&self, version: &str) -> PathBuf {
        self.versions().join(version)
    }

    /// Returns the directory of compiled forms, by version.
    pub fn compiled_root(&self) -> PathBuf {
        self.root.join("compiled")
    }

    /// Returns the directory of generation records, by model.
    pub fn generations_root(&self) -> PathBuf {
        self.root.join("generations")
    }

    /// Returns the directory compiled from one version. It may be missing or stale.
    pub fn compiled(&self, version: &str) -> PathBuf {
        self.compiled_root().join(version)
    }

    /// Returns the directory of quarantined versions, by model.
    pub fn quarantine_root(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Returns the directory of a model's quarantined versions, one empty file each.
    pub fn quarantine(&self, model: &ModelName) -> PathBuf {
        self.quarantine_root().join(model.folder())
    }

    /// Returns the directory of what a repair set aside.
    pub fn damaged(&self) -> PathBuf {
        self.root.join("damaged")
    }

    /// Returns the directory of one model's generation records.
    pub fn generations(&self, model: &ModelName) -> PathBuf {
        self.generations_root().join(model.folder())
    }

    /// Returns the path of one generation's record.
    pub fn generation(&self, model: &ModelName, generation: Generation) -> PathBuf {
        self.generations(model).join(generation.to_string())
    }

    /// Reads a generation's record.
    ///
    /// # Errors
    /// The file is missing or is not a record, or no generation has this number; the message names
    /// the file.
    pub fn read_record(&self, model: &ModelName, generation: Generation) -> io::Result<Record> {
        let path = self.generation(model, generation);
        let name = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let invalid =
            |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, name(error));
        if !(1..=GENERATION_MAX).contains(&generation) {
            return Err(invalid(&format!("generations are numbered from 1 to {GENERATION_MAX}")));
        }
        let text = regular::read(&path, RECORD_BYTES_MAX)
            .map_err(|error| io::Error::new(error.kind(), name(&error)))?;
        let record: Record = serde_json::from_slice(&text).map_err(|error| invalid(&error))?;
        let version = &record.version;
        if version.is_empty() || version.starts_with('.') || version.contains('/') {
            return Err(invalid(&format!("{version:?} is not a version")));
        }
        Ok(record)
    }
}
