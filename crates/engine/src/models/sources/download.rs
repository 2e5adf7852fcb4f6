//! The download of a remote snapshot's files into a [`DownloadFolder`], and what an earlier attempt left
//! there. Called by [`remote`](super::remote).

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use onnxd_proto::{
    domain::{
        Refusal,
        fetch::{RemoteFile, RemoteSnapshot as Offer},
    },
    layout::{Layout, MANIFEST, MANIFEST_BYTES_MAX},
    manifest::{Entry, entries},
    regular,
};

use crate::models::{
    disk::io_refusal,
    sources::{
        directory_snapshot::VERSION_BYTES_MAX,
        fetcher::Conversation,
        selection,
        source::{Progress, Transfer},
    },
};

/// The folder of files that are moved aside while the source is listed. Hidden, so that no listing sees
/// it.
const ASIDE: &str = ".aside";

/// Returns what reports the progress of one request to the fetcher, after `before` bytes of earlier
/// ones.
pub(super) fn transfer(progress: Progress<'_>, before: u64) -> impl Fn(u64, u64) + '_ {
    let last = Cell::new(0);
    move |bytes, total| {
        let downloaded = bytes.saturating_sub(last.replace(bytes));
        let (bytes, total) = (before.saturating_add(bytes), before.saturating_add(total));
        progress.report(Transfer { bytes, total, downloaded });
    }
}

/// Returns the files selected by name. Includes checksums and signatures, which the snapshot verifies.
pub(super) fn named(offer: &Offer, has_graph: bool) -> BTreeSet<String> {
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
        let manifest = regular::read(&version.path().join(MANIFEST), MANIFEST_BYTES_MAX);
        let manifest = String::from_utf8(manifest.unwrap_or_default()).unwrap_or_default();
        let file = |entry: Entry<'_>| (entry.sha256.to_owned(), version.path().join(entry.path));
        kept.extend(entries(&manifest).map(file));
    }
    kept
}

/// Copies a file of a kept version.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    io::copy(&mut regular::open(from)?, &mut File::create(to)?).map(drop)
}

/// The download of a version's files.
pub(super) struct Download<'a> {
    folder: &'a Path,
    /// Files of kept versions by their SHA-256.
    kept: HashMap<String, PathBuf>,
    offer: &'a Offer,
    /// Paths of the files that are in the folder, with the right content.
    done: BTreeSet<String>,
    /// Bytes downloaded for earlier requests.
    bytes: u64,
}

impl<'a> Download<'a> {
    /// Returns a download of `offer` into `folder`, which reuses the files of `layout`'s versions. Removes
    /// files of earlier snapshots.
    ///
    /// # Errors
    /// A disk error.
    pub(super) fn begin(
        folder: &'a Path,
        layout: &Layout,
        offer: &'a Offer,
    ) -> Result<Self, Refusal> {
        let (kept, done) = (kept_files(layout), BTreeSet::new());
        let download = Self { folder, kept, offer, done, bytes: 0 };
        download.remove_others()?;
        Ok(download)
    }
}

impl Download<'_> {
    /// Downloads those files that are not there yet. Returns whether there were any. Ignores paths
    /// that the source does not have; the listing or the snapshot names them.
    ///
    /// # Errors
    /// A file cannot be downloaded, see [`Conversation::download`].
    pub(super) fn add(
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
                // The fetcher verifies the copy, and downloads the file if it is damaged. The version may
                // be removed meanwhile.
                let copied = create_folder(&path).and_then(|()| copy(kept, &path));
                if let Err(error) = copied {
                    tracing::debug!(path = file.path, %error, "a kept file was not reused");
                    let _ = fs::remove_file(&path);
                }
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

    /// Runs `list` while the folder seems to hold all files of the source: empty files have the names
    /// and lengths of those that were not downloaded.
    ///
    /// # Errors
    /// A disk error, or that of `list`.
    pub(super) fn with_placeholders<T>(
        &self,
        list: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut placeholders = Placeholders { moved: Vec::new(), created: Vec::new() };
        for (number, file) in (0_u32..).zip(&self.offer.files) {
            if self.done.contains(&file.path) {
                continue;
            }
            let path = self.folder.join(&file.path);
            let length = file.bytes.unwrap_or(VERSION_BYTES_MAX).min(VERSION_BYTES_MAX);
            let aside = self.folder.join(ASIDE).join(number.to_string());
            let added = placeholders.add(path.clone(), aside, length);
            added.map_err(|error| io_refusal(&path, &error))?;
        }
        let listed = list();
        placeholders.remove().map_err(|error| io_refusal(self.folder, &error))?;
        listed
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

/// Files that stand for those of a source while it is listed.
struct Placeholders {
    /// Files left by an interrupted download and where they are meanwhile. Their content is not known to
    /// be right; the fetcher compares it before it downloads them again.
    moved: Vec<(PathBuf, PathBuf)>,
    created: Vec<PathBuf>,
}

impl Placeholders {
    fn add(&mut self, path: PathBuf, aside: PathBuf, length: u64) -> io::Result<()> {
        create_folder(&path)?;
        if fs::symlink_metadata(&path).is_ok() {
            create_folder(&aside)?;
            fs::rename(&path, &aside)?;
            self.moved.push((path.clone(), aside));
        }
        let created = File::create_new(&path)?;
        self.created.push(path);
        created.set_len(length)
    }

    fn remove(&mut self) -> io::Result<()> {
        self.created.drain(..).try_for_each(fs::remove_file)?;
        self.moved.drain(..).try_for_each(|(path, aside)| fs::rename(aside, path))
    }
}

impl Drop for Placeholders {
    fn drop(&mut self) {
        // After an error. What stays costs a download.
        let _ = self.remove();
    }
}

fn create_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use onnxd_proto::domain::{RefusalKind, fetch::Pin};

    use super::*;

    fn offer(files: &[(&str, u64)]) -> Offer {
        let file = |(path, bytes): &(&str, u64)| RemoteFile {
            path: (*path).to_owned(),
            bytes: Some(*bytes),
            sha256: None,
        };
        let files = files.iter().map(file).collect();
        Offer { id: "x:1".to_owned(), pin: Pin::Checksums, files, notes: Vec::new() }
    }

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
    fn files_of_an_interrupted_download_survive_a_listing() {
        let root = tempfile::tempdir().unwrap();
        let offer = offer(&[("onnx/weights.bin", 7), ("onnx/model.onnx", 5)]);
        let weights = root.path().join("onnx/weights.bin");
        create_folder(&weights).unwrap();
        fs::write(&weights, "weights").unwrap();
        let layout = Layout::new(root.path().join("state"));
        let download = Download::begin(root.path(), &layout, &offer).unwrap();
        let list = || {
            assert_eq!(
                fs::read(&weights).unwrap(),
                [0; 7],
                "its content may be of another snapshot"
            );
            assert_eq!(fs::metadata(root.path().join("onnx/model.onnx")).unwrap().len(), 5);
            Ok(())
        };
        download.with_placeholders(list).unwrap();
        let refused =
            download.with_placeholders(|| Err::<(), _>(RefusalKind::Contract.because("")));
        assert!(refused.is_err());
        assert_eq!(fs::read_to_string(&weights).unwrap(), "weights");
        assert!(!root.path().join("onnx/model.onnx").exists());
    }
}
