//! The state directory: the only code that writes to it. A version is complete and durable
//! before its name exists, a generation's record before the generation is committed; whatever
//! step a crash interrupts, the next [`Store::open`] finds the old or the new state and removes
//! the rest. What stands where is [`onnxd_proto::layout`]'s affair.

mod crash;
mod lock;
pub mod pins;
mod retention;
mod staged_before;

use std::{
    collections::HashSet,
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Mutex,
};

use onnxd_proto::{
    domain::{Record, Refusal, RefusalKind, SourceUri, model_name::ModelName},
    generation::Generation,
    layout::{Layout, MANIFEST},
};
use sha2::{Digest, Sha256};

use crate::models::{
    disk::{hex, io_refusal},
    sources::{Fetched, FetchedFile, Resolved, Snapshot, SnapshotFile, Sources},
    store::{
        pins::{PinnedVersion, Pins},
        staged_before::StagedBefore,
    },
};
use onnxd_proto::exit::Failure;

/// The state directory, locked.
#[derive(Debug)]
pub struct Store {
    layout: Layout,
    /// Versions of each model that are kept.
    retention: usize,
    pins: Pins,
    /// Held by the one thread that removes old versions: updates of several models end at once.
    retiring: Mutex<()>,
    sources: Sources,
    staged: StagedBefore,
    /// Released by the kernel however this process ends.
    lock: File,
}

/// A version that stands in `staging/` or, where it was known already, in `versions/`. Dropping
/// it before [`Store::keep`] removes the staged copy.
#[derive(Debug)]
pub struct Staged {
    /// SHA-256 of the manifest, in hex.
    pub version: String,
    /// `None` where the version is known already.
    folder: Option<tempfile::TempDir>,
    /// All bytes of its files.
    pub bytes: u64,
}

impl Staged {
    /// A version that is kept already.
    pub fn kept(version: &str) -> Self {
        Self { version: version.to_owned(), folder: None, bytes: 0 }
    }

    /// The same, with its size.
    fn known(version: String, bytes: u64) -> Self {
        Self { version, folder: None, bytes }
    }

    /// Where the files stand until the version is kept.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(tempfile::TempDir::path)
    }
}

impl Store {
    /// Creates what is missing, becomes the one writer, and removes what a crash left over.
    ///
    /// # Errors
    /// Another supervisor holds the lock (the message names its pid), or the directory cannot be
    /// used.
    pub fn open(
        root: &Path,
        retention: usize,
        sources: Sources,
        inherited: Option<File>,
    ) -> Result<Self, Failure> {
        let layout = Layout::new(root);
        let wrong = |path: &Path, error: &dyn std::fmt::Display| {
            Failure::configuration(format!("--state-dir: {}: {error}", path.display()))
        };
        for folder in [layout.root().to_owned(), layout.versions(), layout.generations_root()] {
            fs::create_dir_all(&folder).map_err(|error| wrong(&folder, &error))?;
        }
        // Workers may read what is below this from their start on, so it is there before. Where it
        // cannot be, there are no compiled forms, which everybody can do without.
        let _ = fs::create_dir_all(layout.compiled_root());
        let lock = lock::take(&layout.lock(), inherited)?;
        let staging = layout.staging();
        // The directory itself stays: a predecessor that has to go on needs it.
        empty(&staging).map_err(|error| wrong(&staging, &error))?;
        let store = Self {
            layout,
            retention,
            pins: Pins::default(),
            retiring: Mutex::default(),
            sources,
            staged: StagedBefore::default(),
            lock,
        };
        // What a crash left unfinished is nobody's.
        store.retire(&HashSet::new());
        Ok(store)
    }

    /// Writes into the lock who holds it: this process, also after a successor that did not.
    pub fn sign(&self) {
        // It is for people.
        if let Err(error) = lock::sign(&self.lock) {
            tracing::warn!(%error, "the lock of the state directory does not say who holds it");
        }
    }

    /// A second descriptor of the lock, for a successor.
    ///
    /// # Errors
    /// Descriptors are used up.
    pub fn lock_for_a_successor(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// Keeps a version from being removed, as long as the result or a clone of it lives.
    pub fn pin(&self, version: &str) -> PinnedVersion {
        self.pins.pin(version)
    }

    /// All versions that are pinned.
    fn pinned(&self) -> HashSet<String> {
        self.pins.all()
    }

    /// How many versions of each model are kept.
    fn retention(&self) -> usize {
        self.retention
    }

    /// Where everything stands.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Fetches what a source holds into `staging/` and names it by its manifest, or finds it known
    /// and unchanged; `progress` hears of bytes done and in all. Blocking.
    ///
    /// # Errors
    /// Those of the source, see [`sources`](crate::models::sources), or a fault of the disk; nothing
    /// is left behind.
    pub fn stage(&self, uri: &SourceUri, progress: &dyn Fn(u64, u64)) -> Result<Staged, Refusal> {
        let source = self.sources.open(uri);
        let known = self.staged.get(uri).filter(|known| self.has(&known.version));
        let snapshot = match source.resolve(known.as_ref().map(|known| &known.snapshot))? {
            Resolved::Changed(snapshot) => snapshot,
            Resolved::Unchanged => match known {
                Some(known) => return Ok(Staged::known(known.version, known.bytes)),
                None => {
                    let message = "internal error: a source is the same as an unknown one";
                    return Err(RefusalKind::Internal.because(message));
                }
            },
        };
        let (staged, is_pinned) = self.stage_snapshot(&*snapshot, progress)?;
        if is_pinned {
            self.staged.remember(uri, snapshot.id(), &staged);
        }
        Ok(staged)
    }

    /// Fetches a snapshot unless its version is kept. Says whether the version is certainly that of
    /// the snapshot's name.
    fn stage_snapshot(
        &self,
        snapshot: &dyn Snapshot,
        progress: &dyn Fn(u64, u64),
    ) -> Result<(Staged, bool), Refusal> {
        if let Some(files) = known_files(snapshot) {
            let (_, version, bytes) = identify(&files);
            if self.has(&version) {
                snapshot.verify(&files)?;
                return Ok((Staged::known(version, bytes), true));
            }
        }
        let staging = self.layout.staging();
        let folder =
            tempfile::tempdir_in(&staging).map_err(|error| io_refusal(&staging, &error))?;
        crash::point(1);
        let Fetched { files, is_pinned } = snapshot.fetch(folder.path(), progress)?;
        snapshot.verify(&files)?;
        crash::point(2);
        let (manifest, version, bytes) = identify(&files);
        if self.has(&version) {
            return Ok((Staged::known(version, bytes), is_pinned));
        }
        let path = folder.path().join(MANIFEST);
        fs::write(&path, manifest).map_err(|error| io_refusal(&path, &error))?;
        crash::point(3);
        Ok((Staged { version, folder: Some(folder), bytes }, is_pinned))
    }

    /// Whether a version is kept.
    pub fn has(&self, version: &str) -> bool {
        self.layout.version(version).exists()
    }

    /// Makes a staged version durable and gives it its place; from then on it never changes.
    /// Blocking.
    ///
    /// # Errors
    /// A fault of the disk; nothing is left behind.
    pub fn keep(&self, staged: Staged) -> Result<(), Refusal> {
        let Some(folder) = staged.folder else { return Ok(()) };
        let place = self.layout.version(&staged.version);
        let kept = (|| {
            crash::point(4);
            seal(folder.path())?;
            crash::point(5);
            match fs::rename(folder.path(), &place) {
                // Another model has just kept the same version.
                Err(_) if place.join(MANIFEST).exists() => return Ok(false),
                renamed => renamed?,
            }
            fs::set_permissions(&place, Permissions::from_mode(0o555))?;
            crash::point(6);
            sync_directory(&self.layout.versions()).map(|()| true)
        })();
        match kept {
            Ok(false) => Ok(()),
            Ok(true) => {
                // The folder has moved: there is nothing to remove any more.
                let _ = folder.keep();
                Ok(())
            }
            Err(error) => Err(io_refusal(&place, &error)),
        }
    }

    /// Writes a generation's record, durably. A number that exists is never written again.
    ///
    /// # Errors
    /// A fault of the disk, after which the generation does not exist.
    pub fn record(
        &self,
        model: &ModelName,
        generation: Generation,
        record: &Record,
    ) -> Result<(), Refusal> {
        let folder = self.layout.generations(model);
        let path = self.layout.generation(model, generation);
        let written = (|| {
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
                // A caller who is refused must not find it served after a restart.
                let _ = fs::remove_file(&path);
            }
            crash::point(9);
            synced
        })();
        written.map_err(|error: io::Error| io_refusal(&path, &error))
    }

    /// The numbers of a model's recorded generations, rising.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn generations(&self, model: &ModelName) -> io::Result<Vec<Generation>> {
        let names = names(&self.layout.generations(model))?;
        let mut numbers: Vec<_> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The newest generation whose version is there: the one to serve after a restart.
    ///
    /// # Errors
    /// A record is damaged or the directory cannot be read; the message names the file.
    pub fn newest(&self, model: &ModelName) -> io::Result<Option<(Generation, Record)>> {
        for generation in self.generations(model)?.into_iter().rev() {
            let record = self.layout.read_record(model, generation)?;
            if self.layout.version(&record.version).join(MANIFEST).exists() {
                return Ok(Some((generation, record)));
            }
            tracing::error!(%model, generation, version = record.version, "the version of a generation is missing");
        }
        Ok(None)
    }
}

/// The names in a directory; none where it is missing.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().into_string().ok());
    Ok(entries.map(name).collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// The files of a snapshot, if the source knows the digest of each without reading it.
fn known_files(snapshot: &dyn Snapshot) -> Option<Vec<FetchedFile>> {
    let file = |SnapshotFile { path, bytes, sha256 }: &SnapshotFile| {
        Some(FetchedFile { path: path.clone(), bytes: *bytes, sha256: sha256.clone()? })
    };
    snapshot.files().iter().map(file).collect()
}

/// The manifest of these files, the version that it makes, and the bytes of all. A manifest has
/// lines of `<sha256>  <bytes>  <path>`, sorted by path, after a line that names the format.
fn identify(files: &[FetchedFile]) -> (String, String, u64) {
    let lines =
        files.iter().map(|file| format!("{}  {}  {}\n", file.sha256, file.bytes, file.path));
    let manifest: String = std::iter::once("onnxd manifest 1\n".to_owned()).chain(lines).collect();
    let version = hex(&Sha256::digest(&manifest));
    (manifest, version, files.iter().map(|file| file.bytes).sum())
}

/// Makes every file durable and read-only, then every directory.
fn seal(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            seal(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
            fs::set_permissions(&path, Permissions::from_mode(0o444))?;
        }
    }
    // The top directory stays writable until it has its place: it could not be moved.
    sync_directory(folder)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes what is in a directory, or makes it.
fn empty(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
    }
    Ok(())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
