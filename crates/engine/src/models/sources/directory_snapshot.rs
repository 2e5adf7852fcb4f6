//! The content of a [`directory`](super::directory) at one moment: its open files, their identity, and
//! how they are verified and copied.

use std::{
    fmt::Display,
    fs::File,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use onnxd_proto::{
    domain::{Checksums, Listing, Refusal, RefusalKind},
    layout::MANIFEST,
};
use sha2::{Digest, Sha256};

use crate::models::{
    disk::{hex, io_refusal},
    sources::{
        checksums,
        digests::{Digests, Identity},
        selection,
        signature::{self, SourceKeys},
        source::{
            Fetched, FetchedFile, Progress, Snapshot, SnapshotFile, SnapshotId, Transfer, cancelled,
        },
        transfer::{copy, free_bytes, rename, transfer},
        tree::Tree,
    },
};

/// Maximum bytes of one version.
pub(super) const VERSION_BYTES_MAX: u64 = 16 << 30;
/// Maximum files of one version, since all are open at once.
pub(super) const VERSION_FILES_MAX: usize = 1000;

/// Opens the files of a version, or returns `None` if the model file changed since the listing.
pub(super) fn snapshot_of(
    tree: Tree,
    listing: Listing,
    digests: &Arc<Digests>,
) -> Result<Option<DirectorySnapshot>, Refusal> {
    let mut opening = OpenFiles::default();
    let mut needed: Vec<&String> = listing.external.iter().collect();
    needed.extend(listing.model.iter().map(|model| &model.file));
    for path in needed {
        let Some(opened) = open_identified(&tree, path)? else {
            return Err(tree.refuse(format!("{path} is missing; download it beside the model")));
        };
        if let Some(model) = listing.model.as_ref().filter(|model| model.file == *path)
            && !listing.external.is_empty()
            && !opened.1.matches(&model.stamp)
        {
            return Ok(None);
        }
        opening.add(path.clone(), opened);
    }
    let named = tree.selected_files(listing.model.is_some())?;
    let count = opening.0.len() + named.len();
    if count > VERSION_FILES_MAX {
        return Err(tree.refuse(format!(
            "the model has {count} files; a version may have at most {VERSION_FILES_MAX}"
        )));
    }
    let mut left_out = Vec::new();
    for path in named {
        let Some(opened) = open_identified(&tree, &path)? else { continue };
        let bytes = opened.1.bytes();
        if selection::is_small(&path) && bytes > selection::NAMED_BYTES_MAX {
            left_out.push(format!(
                "skipped {path}: {bytes} bytes exceed the limit of {}",
                selection::NAMED_BYTES_MAX
            ));
        } else if !opening.has(&path) {
            opening.add(path, opened);
        }
    }
    let listing = Listing { notes: [listing.notes, left_out].concat(), ..listing };
    opening.finish(tree, listing, digests).map(Some)
}

/// Opens a file below the directory, if it exists, and takes its identity.
fn open_identified(tree: &Tree, path: &str) -> Result<Option<(File, Identity)>, Refusal> {
    let Some(file) = tree.open_file(path)? else { return Ok(None) };
    let identity = Identity::read(&file).map_err(|error| tree.refusal(path, &error))?;
    Ok(Some((file, identity)))
}

/// Files opened so far for a snapshot.
#[derive(Default)]
struct OpenFiles(Vec<(String, (File, Identity))>);

impl OpenFiles {
    fn add(&mut self, path: String, opened: (File, Identity)) {
        self.0.push((path, opened));
    }

    fn has(&self, path: &str) -> bool {
        self.0.iter().any(|(known, _)| known == path)
    }

    fn finish(
        mut self,
        tree: Tree,
        listing: Listing,
        digests: &Arc<Digests>,
    ) -> Result<DirectorySnapshot, Refusal> {
        self.0.sort_by(|one, other| one.0.cmp(&other.0));
        if self.has(MANIFEST) {
            return Err(tree.refuse(format!("{MANIFEST} is a reserved file name; rename the file")));
        }
        let (mut files, mut handles) = (Vec::new(), Vec::new());
        let mut id = Identifier::default();
        for (path, (file, identity)) in self.0 {
            id.add(&path, &identity);
            let (bytes, sha256) = (identity.bytes(), digests.get(&identity));
            files.push(SnapshotFile { path, bytes, sha256 });
            handles.push((file, identity));
        }
        // Corrected checksums and signatures change the snapshot's id.
        for proof in selection::PROOFS {
            if let Some((_, identity)) = open_identified(&tree, proof)? {
                id.add(proof, &identity);
            }
        }
        let (all, most) = (bytes_of(&files), VERSION_BYTES_MAX);
        if all > most {
            return Err(tree
                .refuse(format!("the model has {all} bytes; a version may have at most {most}")));
        }
        let (id, digests) = (id.finish(), Arc::clone(digests));
        let keys = SourceKeys::default();
        Ok(DirectorySnapshot { tree, listing, id, files, handles, digests, keys })
    }
}

/// A directory's open files at one moment.
#[derive(Debug)]
pub(super) struct DirectorySnapshot {
    pub(super) tree: Tree,
    listing: Listing,
    id: SnapshotId,
    files: Vec<SnapshotFile>,
    /// The open files, with their identities at opening.
    handles: Vec<(File, Identity)>,
    digests: Arc<Digests>,
    /// One of these must have signed the files, if there are any.
    pub(super) keys: SourceKeys,
}

impl Snapshot for DirectorySnapshot {
    fn id(&self) -> &SnapshotId {
        &self.id
    }

    fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    fn verify(&self, files: &[FetchedFile]) -> Result<(), Refusal> {
        let read = |path: &str| self.tree.read_small(path, signature::BYTES_MAX);
        self.keys.verify(files, &read).map_err(|refusal| self.name(refusal))?;
        let Some(text) = self.tree.read_small(Checksums::FILE, Checksums::BYTES_MAX)? else {
            return Ok(());
        };
        let refuse = |what: String| Err(self.name(RefusalKind::Checksum.because(what)));
        let named = |reason: &dyn Display| format!("{}: {reason}", Checksums::FILE);
        let text = match std::str::from_utf8(&text) {
            Ok(text) => text,
            Err(error) => return refuse(named(&error)),
        };
        let checksums = match Checksums::parse(text) {
            Ok(checksums) => checksums,
            Err(error) => return refuse(named(&error)),
        };
        // Downloads may leave out other listed variants of the model. A variant with the usual name
        // counts: once it arrives, it would be chosen instead.
        let model = self.listing.model.as_ref();
        let is_ours = |path: &str| {
            selection::includes(path, model.is_some())
                || model.is_some_and(|model| !model.is_stated) && selection::is_usual(path)
        };
        let is_missing =
            |path: &str| is_ours(path) && matches!(self.tree.open_file(path), Ok(None));
        checksums::fault(&checksums, files, is_missing).map_or(Ok(()), refuse)
    }

    fn proof(&self, path: &str) -> Result<Option<Vec<u8>>, Refusal> {
        self.tree.read_small(path, signature::BYTES_MAX)
    }

    /// Blocking.
    fn fetch(&self, target: &Path, progress: Progress<'_>) -> Result<Fetched, Refusal> {
        let all = bytes_of(&self.files);
        let free = free_bytes(target).map_err(|error| io_refusal(target, &error))?;
        if all > free {
            return Err(RefusalKind::Space.because(format!(
                "{}: not enough space: the version needs {all} bytes, {free} are free",
                target.display()
            )));
        }
        let (mut counter, mut is_pinned) = (Counter { done: 0, all, progress }, true);
        let mut files = Vec::new();
        for (SnapshotFile { path, .. }, (file, identity)) in self.files.iter().zip(&self.handles) {
            let mut count = |bytes| counter.add(bytes);
            let (bytes, sha256) = copy(file, &target.join(path), &mut count)
                .map_err(|error| self.tree.refusal(path, &error))?;
            is_pinned &= self.digests.remember(file, identity, &sha256);
            files.push(FetchedFile { path: path.clone(), bytes, sha256 });
        }
        Ok(Fetched { files, is_pinned })
    }
}

impl DirectorySnapshot {
    /// Returns the first file that has changed within `settle`.
    pub(super) fn unsettled(&self, settle: Duration) -> Option<&str> {
        let files = self.files.iter().zip(&self.handles);
        let is_fresh = |identity: &Identity| !identity.is_unchanged_for(settle);
        let mut fresh = files.filter(|(_, (_, identity))| is_fresh(identity));
        fresh.next().map(|(file, _)| file.path.as_str())
    }

    /// Moves the files into `target`, which must be on the same file system. For a directory that
    /// only onnxd writes. Blocking.
    ///
    /// # Errors
    /// A file cannot be read or moved, or its name leads to another file; the message names it.
    pub(super) fn move_to(
        &self,
        target: &Path,
        progress: Progress<'_>,
    ) -> Result<Fetched, Refusal> {
        let (all, mut files) = (bytes_of(&self.files), Vec::new());
        let mut counter = Counter { done: 0, all, progress };
        for (SnapshotFile { path, .. }, (file, _)) in self.files.iter().zip(&self.handles) {
            let to = target.join(path);
            let mut count = |bytes| counter.add(bytes);
            let moved = rename(file, &self.tree.path().join(path), &to)
                .and_then(|()| transfer(file, &mut io::sink(), &mut count));
            let (bytes, sha256) = moved.map_err(|error| self.tree.refusal(path, &error))?;
            files.push(FetchedFile { path: path.clone(), bytes, sha256 });
        }
        Ok(Fetched { files, is_pinned: true })
    }

    /// Adds the directory to a refusal.
    fn name(&self, refusal: Refusal) -> Refusal {
        let message = format!("{}: {}", self.tree.path().display(), refusal.message);
        refusal.with_message(message)
    }

    /// Logs which files of `source` were chosen and why.
    pub(super) fn log_choice(&self, source: &dyn Display) {
        if let Some(model) = &self.listing.model {
            let (file, reason) = (&model.file, &model.reason);
            tracing::info!(%source, file, reason, "model file chosen");
        }
        for note in &self.listing.notes {
            tracing::info!(%source, note, "source listed");
        }
    }
}

/// Counts the bytes of a version while its files are copied.
struct Counter<'a> {
    done: u64,
    all: u64,
    progress: Progress<'a>,
}

impl Counter<'_> {
    /// Reports `bytes` more.
    ///
    /// # Errors
    /// The files have grown beyond the limit of a version, or the copy was cancelled.
    fn add(&mut self, bytes: u64) -> io::Result<()> {
        self.done += bytes;
        self.progress.report(Transfer { bytes: self.done, total: self.all, downloaded: 0 });
        match self.done <= VERSION_BYTES_MAX {
            _ if self.progress.is_cancelled() => Err(io::Error::other(cancelled())),
            true => Ok(()),
            false => Err(io::Error::other("the model exceeds the size limit of a version")),
        }
    }
}

/// Sums the lengths. Saturates, because a sparse file may claim any length.
fn bytes_of(files: &[SnapshotFile]) -> u64 {
    files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
}

/// Derives a snapshot's id from the identities of its files.
#[derive(Default)]
struct Identifier {
    digest: Sha256,
    is_unsettled: bool,
}

impl Identifier {
    fn add(&mut self, path: &str, identity: &Identity) {
        self.digest.update(format!("{path} {identity}\n"));
        self.is_unsettled |= !identity.is_settled();
    }

    fn finish(mut self) -> SnapshotId {
        static UNSETTLED: AtomicU64 = AtomicU64::new(0);
        if self.is_unsettled {
            // A further change could leave the same times, so make this id unique.
            let number = UNSETTLED.fetch_add(1, Ordering::Relaxed);
            self.digest.update(format!("unsettled {number}\n"));
        }
        SnapshotId::new(hex(&self.digest.finalize()))
    }
}
