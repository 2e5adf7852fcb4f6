//! The state directory, written only by this module. A version is complete and durable before its
//! name exists; a generation's record is durable before the commit. After a crash at any step, the
//! next [`Store::open`] finds the old or the new state and removes leftovers. For the layout, see
//! [`onnxd_proto::layout`].

mod crash;
mod directories;
pub mod export;
mod lock;
pub mod maintenance;
mod manifest;
pub mod pins;
mod records;
mod renamed;
mod retention;
pub mod seen;
mod staged_cache;
mod verify;
mod view;
mod whole;

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Mutex,
};

use onnxd_proto::{
    domain::{Record, Refusal, RefusalKind, SourceUri, model_name::ModelName},
    generation::Generation,
    layout::{Layout, MANIFEST, create_folder},
};

use crate::models::{
    disk::io_refusal,
    registry::ModelSource,
    sources::{
        Conditions, Fetched, Progress, Resolved, Snapshot, SnapshotId, Sources, download_folder,
    },
    store::{
        directories::{empty, names, seal, sync_directory},
        manifest::{identify, known_files, paths, settings},
        pins::{PinnedVersion, Pins},
        records::DamagedRecords,
        staged_cache::{Entry, StagedCache},
    },
};
use onnxd_proto::exit::Failure;

pub use self::{
    lock::holder,
    records::{has_records, unreadable},
    view::{VIEW_GENERATION, View},
};

/// The state directory, locked.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    /// Versions kept of each model.
    retention: usize,
    pins: Pins,
    /// Serializes the removal of old versions, because several updates may end at once.
    retiring: Mutex<()>,
    damaged: Mutex<DamagedRecords>,
    /// Models whose generations under an old name were not taken over, with the reasons.
    not_adopted: Mutex<BTreeMap<ModelName, String>>,
    sources: Sources,
    staged: StagedCache,
    /// Whether a predecessor uses the directory as well, and goes on if this process fails.
    is_successor: bool,
    /// Released by the kernel when this process exits.
    lock: File,
}

/// A version in `staging/` or, if it was kept before, in `versions/`. Dropping it before
/// [`Store::keep`] removes the staged copy.
#[derive(Debug)]
pub struct Staged {
    /// SHA-256 of the manifest, in hex.
    pub version: String,
    /// `None` if the version is kept already.
    folder: Option<tempfile::TempDir>,
    /// Total bytes of its files.
    pub bytes: u64,
}

impl Staged {
    /// Returns a version that is kept already, with its size unknown.
    pub fn kept(version: &str) -> Self {
        Self { version: version.to_owned(), folder: None, bytes: 0 }
    }

    /// Returns a version that is kept already, with its size.
    fn known(version: String, bytes: u64) -> Self {
        Self { version, folder: None, bytes }
    }

    /// Returns the staging folder, or `None` if the version is kept already.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(tempfile::TempDir::path)
    }
}

impl Store {
    /// Creates missing directories, takes the lock, and removes the leftovers of a crash.
    ///
    /// # Errors
    /// Another supervisor holds the lock (the message names its PID), or the directory is unusable.
    pub fn open(
        root: &Path,
        retention: usize,
        sources: Sources,
        inherited: Option<File>,
    ) -> Result<Self, Failure> {
        let layout = Layout::new(root);
        let invalid = |path: &Path, error: &dyn std::fmt::Display| {
            Failure::configuration(format!("--state-dir: {}: {error}", path.display()))
        };
        for folder in [layout.root().to_owned(), layout.versions(), layout.generations_root()] {
            create_folder(&folder).map_err(|error| invalid(&folder, &error))?;
        }
        // Must exist before workers start, because their sandbox grants access to it. Ignore errors:
        // compiled forms are optional.
        let _ = fs::create_dir_all(layout.compiled_root());
        let is_successor = inherited.is_some();
        let lock = lock::take(&layout.lock(), inherited)?;
        let staging = layout.staging();
        // Keep the directory itself: the predecessor needs it if the succession fails.
        empty(&staging).map_err(|error| invalid(&staging, &error))?;
        let staged = StagedCache::new(layout.clone());
        let store = Self {
            layout,
            retention,
            pins: Pins::default(),
            retiring: Mutex::default(),
            damaged: Mutex::default(),
            not_adopted: Mutex::default(),
            sources,
            staged,
            lock,
            is_successor,
        };
        store.find_damaged();
        // The predecessor's versions are in use. Without one, this also removes what a crash left unfinished.
        if !is_successor {
            store.retire(&HashSet::new());
        }
        Ok(store)
    }

    /// Removes what is kept of sources that no model is configured with.
    pub fn remove_unconfigured(&self, models: &[ModelSource]) {
        let uris: Vec<&SourceUri> = models.iter().map(|model| &model.uri).collect();
        download_folder::remove_unconfigured(&self.layout, &uris);
        let keys = |model: &ModelSource| model.rules.keys.id();
        let sources: Vec<_> = models.iter().map(|model| (&model.uri, keys(model))).collect();
        self.staged.remove_unconfigured(&sources);
    }

    /// Writes this process's PID into the lock file, for example after a successor failed.
    pub fn write_pid(&self) {
        // The PID only informs operators.
        if let Err(error) = lock::write_pid(&self.lock) {
            tracing::warn!(%error, "failed to write the PID to the lock file of the state directory");
        }
    }

    /// Duplicates the lock's descriptor, for a successor.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn lock_for_successor(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// Protects a version from removal until the result and its clones are dropped.
    pub fn pin(&self, version: &str) -> PinnedVersion {
        self.pins.pin(version)
    }

    /// Returns all pinned versions.
    fn pinned(&self) -> HashSet<String> {
        self.pins.all()
    }

    /// Returns how many versions of each model are kept.
    fn retention(&self) -> usize {
        self.retention
    }

    /// Returns the layout of the state directory.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Fetches a source's content into `staging/` and names it by its manifest. Fetches nothing if
    /// the version is kept already. Blocking.
    ///
    /// # Errors
    /// Those of the source, see [`sources`](crate::models::sources), or a disk error. Leaves nothing
    /// behind.
    pub fn stage(
        &self,
        uri: &SourceUri,
        conditions: &Conditions,
        progress: Progress<'_>,
    ) -> Result<Staged, Refusal> {
        let source = self.sources.open(uri, &self.layout, conditions);
        let known = self.known(uri, conditions).filter(|known| self.is_whole(&known.version));
        let snapshot =
            match source.resolve(known.as_ref().map(|known| &known.snapshot), progress)? {
                Resolved::Changed(snapshot) => snapshot,
                Resolved::Unchanged => match known {
                    Some(known) => return Ok(Staged::known(known.version, known.bytes)),
                    None => {
                        let message = "internal error: a source matches an unknown snapshot";
                        return Err(RefusalKind::Internal.because(message));
                    }
                },
            };
        let (staged, is_pinned) = self.stage_snapshot(&*snapshot, progress)?;
        if is_pinned {
            self.staged.insert(uri, snapshot.id(), &conditions.keys_id(), &staged);
        }
        Ok(staged)
    }

    /// Returns the snapshot of a source that was staged last, if its version is kept and satisfied
    /// the same conditions.
    pub fn known_snapshot(&self, uri: &SourceUri, conditions: &Conditions) -> Option<SnapshotId> {
        self.known(uri, conditions).map(|known| known.snapshot)
    }

    fn known(&self, uri: &SourceUri, conditions: &Conditions) -> Option<Entry> {
        self.staged.get(uri, &conditions.keys_id()).filter(|known| self.has(&known.version))
    }

    /// Returns the id of a source's current content, or `None` if it is `known`. Blocking.
    ///
    /// # Errors
    /// Those of the source, see [`sources`](crate::models::sources).
    pub fn peek(
        &self,
        uri: &SourceUri,
        conditions: &Conditions,
        known: Option<&SnapshotId>,
        progress: Progress<'_>,
    ) -> Result<Option<SnapshotId>, Refusal> {
        self.sources.open(uri, &self.layout, conditions).peek(known, progress)
    }

    /// Fetches a snapshot unless its version is kept. Also returns whether the snapshot's id certainly
    /// identifies the version.
    fn stage_snapshot(
        &self,
        snapshot: &dyn Snapshot,
        progress: Progress<'_>,
    ) -> Result<(Staged, bool), Refusal> {
        if let Some(files) = known_files(snapshot) {
            let (_, version, bytes) = identify(&files);
            if self.is_whole(&version) {
                snapshot.verify(&files)?;
                return Ok((Staged::known(version, bytes), true));
            }
        }
        let staging = self.layout.staging();
        let folder =
            tempfile::tempdir_in(&staging).map_err(|error| io_refusal(&staging, &error))?;
        crash::point(1);
        progress.step("fetch");
        let Fetched { files, is_pinned } = snapshot.fetch(folder.path(), progress)?;
        progress.step("stage");
        snapshot.verify(&files)?;
        crash::point(2);
        let (manifest, version, bytes) = identify(&files);
        if self.is_whole(&version) {
            return Ok((Staged::known(version, bytes), is_pinned));
        }
        let path = folder.path().join(MANIFEST);
        fs::write(&path, manifest).map_err(|error| io_refusal(&path, &error))?;
        crash::point(3);
        Ok((Staged { version, folder: Some(folder), bytes }, is_pinned))
    }

    /// Returns the paths of a staged version's files.
    pub fn files(&self, staged: &Staged) -> Vec<String> {
        let kept = || self.layout.version(&staged.version);
        paths(&staged.folder().map_or_else(kept, Path::to_owned))
    }

    /// Returns the paths of the files of a record's version.
    pub fn files_of(&self, record: &Record) -> Vec<String> {
        paths(&self.layout.version(&record.version))
    }

    /// Returns whether two kept versions have the same files besides their weights.
    pub fn has_same_settings(&self, version: &str, other: &str) -> bool {
        let settings = |version| settings(&self.layout.version(version)).ok();
        let found = settings(version);
        found.is_some() && found == settings(other)
    }

    /// Makes a staged version durable and moves it to `versions/`, where it never changes. Blocking.
    ///
    /// # Errors
    /// A disk error. Leaves nothing behind.
    pub fn keep(&self, staged: Staged) -> Result<(), Refusal> {
        let Staged { version, folder: Some(folder), .. } = staged else { return Ok(()) };
        let path = self.layout.version(&version);
        let kept = (|| {
            crash::point(4);
            seal(folder.path())?;
            crash::point(5);
            match fs::rename(folder.path(), &path) {
                Ok(()) => {}
                // Another model kept the same version at the same time.
                Err(_) if self.is_whole(&version) => return Ok(false),
                // Anything else in its place was discarded.
                Err(_) => fs::rename(folder.path(), &path)?,
            }
            fs::set_permissions(&path, Permissions::from_mode(0o555))?;
            crash::point(6);
            sync_directory(&self.layout.versions()).map(|()| true)
        })();
        match kept {
            Ok(false) => Ok(()),
            Ok(true) => {
                // The folder was moved, so stop the drop from removing it.
                let _ = folder.keep();
                Ok(())
            }
            Err(error) => Err(io_refusal(&path, &error)),
        }
    }

    /// Writes a generation's record durably. Fails if the number exists.
    ///
    /// # Errors
    /// A disk error, after which the generation does not exist.
    pub fn record(
        &self,
        model: &ModelName,
        generation: Generation,
        record: &Record,
    ) -> Result<(), Refusal> {
        let folder = self.layout.generations(model);
        let path = self.layout.generation(model, generation);
        let written = (|| {
            self.require_adopted(model)?;
            fs::create_dir_all(&folder)?;
            let mut file = tempfile::Builder::new().tempfile_in(self.layout.staging())?;
            serde_json::to_writer(&mut file, record)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.as_file().set_permissions(Permissions::from_mode(0o444))?;
            crash::point(7);
            file.persist_noclobber(&path)?;
            crash::point(8);
            let synced = sync_directory(&folder)
                .and_then(|()| sync_directory(&self.layout.root().join("generations")));
            if synced.is_err() {
                // A refused generation must not serve after a restart.
                let _ = fs::remove_file(&path);
            }
            crash::point(9);
            synced
        })();
        written.map_err(|error: io::Error| io_refusal(&path, &error))?;
        self.forget_mended(model);
        Ok(())
    }
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
