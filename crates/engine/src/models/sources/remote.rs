//! A source on another server. A [fetcher](super::fetcher) downloads the files of a version into a
//! directory of ours, which is then read like any other source. Which files a version needs is known
//! step by step: first those selected by name, then the model file, then the weights that its graph
//! names.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use onnxd_proto::{
    domain::{
        Listing, Refusal, RefusalKind, RemoteUri,
        fetch::{Pin, RemoteFile, RemoteSnapshot as Offer, Resolve},
    },
    layout::{Layout, MANIFEST},
};
use sha2::{Digest, Sha256};

use crate::models::{
    disk::{hex, io_refusal},
    sources::{
        Conditions, Fetched, FetchedFile, Progress, Resolved, Snapshot, SnapshotFile, SnapshotId,
        Source, Sources, Transfer,
        directory::{DirectorySnapshot, VERSION_BYTES_MAX},
        fetcher::Conversation,
        selection,
        tree::Tree,
    },
};

/// Maximum files of a source, of which a version uses few.
const FILES_MAX: usize = 10_000;
/// Maximum listings until all files are known: names, the model file, its weights.
const LISTINGS_MAX: usize = 4;

/// A source on another server.
#[derive(Debug)]
pub(super) struct Remote {
    sources: Sources,
    uri: RemoteUri,
    layout: Layout,
    conditions: Conditions,
}

impl Remote {
    /// Returns the source without connecting to it.
    pub(super) fn new(
        sources: Sources,
        uri: RemoteUri,
        layout: Layout,
        conditions: Conditions,
    ) -> Self {
        Self { sources, uri, layout, conditions }
    }

    /// Starts a fetcher in the source's download directory and identifies the source's content.
    fn ask<'p>(
        &self,
        known: Option<&SnapshotId>,
        progress: Progress<'p>,
    ) -> Result<(Conversation<'p>, Option<Offer>, PathBuf), Refusal> {
        let Some(fetcher) = &self.sources.fetcher else {
            let message = format!("{}: sources on other servers need onnxd-fetch", self.name());
            return Err(RefusalKind::Internal.because(message));
        };
        let folder = self.layout.downloads().join(hex(&Sha256::digest(self.name())[..16]));
        fs::create_dir_all(&folder).map_err(|error| io_refusal(&folder, &error))?;
        let mut conversation = fetcher.start(&folder, progress)?;
        let request = Resolve {
            source: self.name(),
            known: known.map(|known| known.as_str().to_owned()),
            allows_private: self.conditions.allows_private,
            wants_signature: !self.conditions.keys.is_empty(),
            bytes_max: VERSION_BYTES_MAX,
            files_max: FILES_MAX,
        };
        let offer = conversation.resolve(request, &transfer(progress, 0));
        Ok((conversation, offer?, folder))
    }

    fn name(&self) -> String {
        format!("{}://{}", self.uri.scheme(), self.uri.location())
    }
}

impl Source for Remote {
    fn resolve(
        &self,
        known: Option<&SnapshotId>,
        progress: Progress<'_>,
    ) -> Result<Resolved, Refusal> {
        let (mut conversation, offer, folder) = self.ask(known, progress)?;
        let Some(offer) = offer else { return Ok(Resolved::Unchanged) };
        let source = self.name();
        tracing::info!(source, snapshot = offer.id, pinned_by = ?offer.pin, "source changed");
        for note in &offer.notes {
            tracing::info!(source, note, "source resolved");
        }
        let mut download = Download {
            folder: &folder,
            kept: kept_files(&self.layout),
            offer: &offer,
            done: BTreeSet::new(),
            bytes: 0,
        };
        download.remove_others()?;
        download.add(named(&offer, true), &mut conversation, progress)?;
        for _ in 0..LISTINGS_MAX {
            let listing = self.list(&download)?;
            let mut needed = named(&offer, listing.model.is_some());
            needed.extend(listing.model.map(|model| model.file));
            needed.extend(listing.external);
            if !download.add(needed, &mut conversation, progress)? {
                // Its end means that nobody writes into the directory any more.
                drop(conversation);
                let choice = self.uri.choice().clone();
                // The files have just been written.
                let conditions = Conditions { settle: Duration::ZERO, ..self.conditions.clone() };
                let files = self.sources.directory(folder.clone(), choice, conditions);
                let files =
                    files.snapshot().map_err(|refusal| rename(&folder, &source, refusal))?;
                files.log_choice(&source);
                let (id, pin) = (SnapshotId::new(offer.id), offer.pin);
                let downloaded = Downloaded { files, id, pin, source, folder };
                return Ok(Resolved::Changed(Box::new(downloaded)));
            }
        }
        let message = format!("{source}: the files of the model could not be found out");
        Err(RefusalKind::Contract.because(message))
    }

    fn peek(
        &self,
        known: Option<&SnapshotId>,
        progress: Progress<'_>,
    ) -> Result<Option<SnapshotId>, Refusal> {
        let (_, offer, _) = self.ask(known, progress)?;
        Ok(offer.map(|offer| SnapshotId::new(offer.id)))
    }
}

impl Remote {
    /// Lists the model's files, as if all files had been downloaded.
    fn list(&self, download: &Download<'_>) -> Result<Listing, Refusal> {
        let placeholders = download.placeholders()?;
        let tree = Tree::open(download.folder)
            .map_err(|refusal| rename(download.folder, &self.name(), refusal))?;
        let listing = self.sources.lister.list(&tree, self.uri.choice());
        for path in placeholders {
            fs::remove_file(&path).map_err(|error| io_refusal(&path, &error))?;
        }
        listing.map_err(|refusal| {
            let message = format!("{}: {}", self.name(), refusal.message);
            refusal.with_message(message)
        })
    }
}

/// Names the source rather than the download directory in a message.
fn rename(folder: &Path, source: &str, refusal: Refusal) -> Refusal {
    let message = refusal.message.replace(&folder.display().to_string(), source);
    refusal.with_message(message)
}

/// Returns what reports the progress of one request to the fetcher, after `before` bytes of earlier
/// ones.
fn transfer(progress: Progress<'_>, before: u64) -> impl Fn(u64, u64) + '_ {
    let last = Cell::new(0);
    move |bytes, total| {
        let downloaded = bytes.saturating_sub(last.replace(bytes));
        let (bytes, total) = (before.saturating_add(bytes), before.saturating_add(total));
        progress.report(Transfer { bytes, total, downloaded });
    }
}

/// Returns the files selected by name. Includes checksums and signatures, which the snapshot verifies.
fn named(offer: &Offer, has_graph: bool) -> BTreeSet<String> {
    let is_named = |file: &&RemoteFile| {
        let is_fitting = !selection::is_small(&file.path)
            || file.bytes.is_none_or(|bytes| bytes <= selection::NAMED_BYTES_MAX);
        let is_selected =
            selection::is_proof(&file.path) || selection::includes(&file.path, has_graph);
        is_selected && is_fitting
    };
    offer.files.iter().filter(is_named).map(|file| file.path.clone()).collect()
}

/// Returns the files of all kept versions by their SHA-256.
fn kept_files(layout: &Layout) -> HashMap<String, PathBuf> {
    let mut kept = HashMap::new();
    // A version that cannot be read only costs a download.
    for version in fs::read_dir(layout.versions()).into_iter().flatten().flatten() {
        let manifest = fs::read_to_string(version.path().join(MANIFEST)).unwrap_or_default();
        for line in manifest.lines() {
            if let [sha256, _, path] = *line.splitn(3, "  ").collect::<Vec<_>>() {
                kept.insert(sha256.to_owned(), version.path().join(path));
            }
        }
    }
    kept
}

/// The download of a version's files.
struct Download<'a> {
    folder: &'a Path,
    /// Files of kept versions by their SHA-256.
    kept: HashMap<String, PathBuf>,
    offer: &'a Offer,
    /// Paths of the files that are in the folder.
    done: BTreeSet<String>,
    /// Bytes downloaded for earlier requests.
    bytes: u64,
}

impl Download<'_> {
    /// Downloads those files that are not there yet. Returns whether there were any. Ignores paths
    /// that the source does not have; the listing or the snapshot names them.
    fn add(
        &mut self,
        paths: BTreeSet<String>,
        conversation: &mut Conversation<'_>,
        progress: Progress<'_>,
    ) -> Result<bool, Refusal> {
        let new =
            |file: &&RemoteFile| paths.contains(&file.path) && !self.done.contains(&file.path);
        let files: Vec<&RemoteFile> = self.offer.files.iter().filter(new).collect();
        if files.is_empty() {
            return Ok(false);
        }
        for file in &files {
            let kept = file.sha256.as_ref().and_then(|sha256| self.kept.get(sha256));
            let path = self.folder.join(&file.path);
            if let Some(kept) = kept
                && !path.exists()
            {
                // The fetcher verifies the copy, and downloads the file if it is damaged.
                let copied = create_folder(&path).and_then(|()| fs::copy(kept, &path));
                copied.map_err(|error| io_refusal(&path, &error))?;
            }
        }
        let (report, mut last) = (transfer(progress, self.bytes), 0);
        conversation.download(
            files.iter().map(|file| file.path.clone()).collect(),
            &mut |bytes, total| {
                last = total;
                report(bytes, total);
            },
        )?;
        self.bytes = self.bytes.saturating_add(last);
        self.done.extend(files.into_iter().map(|file| file.path.clone()));
        Ok(true)
    }

    /// Creates empty files with the names and lengths of those that were not downloaded, so that a
    /// listing sees all files of the source. Returns their paths.
    fn placeholders(&self) -> Result<Vec<PathBuf>, Refusal> {
        let mut created = Vec::new();
        for file in self.offer.files.iter().filter(|file| !self.done.contains(&file.path)) {
            let path = self.folder.join(&file.path);
            let length = file.bytes.unwrap_or(VERSION_BYTES_MAX).min(VERSION_BYTES_MAX);
            let create = || {
                create_folder(&path)?;
                // Left by an interrupted download, whose content is not known to be right.
                let _ = fs::remove_file(&path);
                File::create_new(&path)?.set_len(length)
            };
            create().map_err(|error| io_refusal(&path, &error))?;
            created.push(path);
        }
        Ok(created)
    }

    /// Removes files of earlier snapshots, which would be taken for files of this one.
    fn remove_others(&self) -> Result<(), Refusal> {
        let names: BTreeSet<&str> =
            self.offer.files.iter().map(|file| file.path.as_str()).collect();
        let mut folders = vec![self.folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).map_err(|error| io_refusal(&folder, &error))?;
            for entry in entries.flatten() {
                let path = entry.path();
                let inside = path.strip_prefix(self.folder).unwrap_or(&path);
                let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
                match entry.file_type() {
                    // The fetcher's own files, and those that it resumes.
                    Ok(_) if is_hidden => {}
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    Ok(_) if inside.to_str().is_some_and(|path| names.contains(path)) => {}
                    _ => fs::remove_file(&path).map_err(|error| io_refusal(&path, &error))?,
                }
            }
        }
        Ok(())
    }
}

fn create_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// The downloaded files of a remote snapshot. Staging moves them.
#[derive(Debug)]
struct Downloaded {
    files: DirectorySnapshot,
    id: SnapshotId,
    pin: Pin,
    source: String,
    folder: PathBuf,
}

impl Snapshot for Downloaded {
    fn id(&self) -> &SnapshotId {
        &self.id
    }

    fn pin(&self) -> Option<Pin> {
        Some(self.pin)
    }

    fn files(&self) -> &[SnapshotFile] {
        self.files.files()
    }

    fn verify(&self, files: &[FetchedFile]) -> Result<(), Refusal> {
        self.files.verify(files).map_err(|refusal| rename(&self.folder, &self.source, refusal))
    }

    fn fetch(&self, target: &Path, progress: Progress<'_>) -> Result<Fetched, Refusal> {
        let fetched = self.files.move_to(target, progress);
        let fetched = fetched.map_err(|refusal| rename(&self.folder, &self.source, refusal))?;
        tracing::debug!(source = self.source, snapshot = self.id.as_str(), pinned_by = ?self.pin, "download staged");
        Ok(fetched)
    }
}

impl Drop for Downloaded {
    fn drop(&mut self) {
        // Either its files were staged, or they are refused; in both cases the next snapshot has
        // others. What stays only takes space until then.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use onnxd_proto::domain::{Checksums, ModelChoice};

    use super::*;
    use crate::models::sources::fake::ByName;

    #[test]
    fn every_downloaded_byte_is_reported_once() {
        let reported = RefCell::new(Vec::new());
        let progress = |transfer| reported.borrow_mut().push(transfer);
        let report = transfer(&progress, 100);
        // The last attempt begins again.
        [(10, 40), (40, 40), (0, 40), (15, 40)].iter().for_each(|&(bytes, of)| report(bytes, of));
        let reported = reported.borrow();
        assert_eq!(reported[0], Transfer { bytes: 110, total: 140, downloaded: 10 });
        let downloaded: Vec<u64> = reported.iter().map(|transfer| transfer.downloaded).collect();
        assert_eq!(downloaded, [10, 30, 0, 15]);
    }

    #[test]
    fn faults_of_downloaded_files_name_the_source() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("download");
        fs::create_dir(&folder).unwrap();
        for (path, content) in [("model.onnx", "x"), (Checksums::FILE, "not a checksum")] {
            fs::write(folder.join(path), content).unwrap();
        }
        let files = ByName::sources().directory(
            folder.clone(),
            ModelChoice::Unstated,
            Conditions::default(),
        );
        let files = files.snapshot().unwrap();
        let (id, source) = (SnapshotId::new("sha256:0".to_owned()), "https://host/m/".to_owned());
        let pin = Pin::Checksums;
        let downloaded = Downloaded { files, id, pin, source, folder: folder.clone() };
        let refusal = downloaded.verify(&[]).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Checksum);
        assert!(refusal.message.starts_with("https://host/m/: SHA256SUMS"), "{}", refusal.message);
        drop(downloaded);
        assert!(!folder.exists(), "what was not staged is removed");
    }
}
