//! The folder of a remote source's downloads. It is locked while it is used, because two models may
//! have the same source. Keeps few of those that are not used. Called by [`remote`](super::remote) and
//! by the store.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use onnxd_proto::{
    domain::{Refusal, SourceUri, fetch},
    layout::Layout,
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::models::{
    disk::{hex, io_refusal},
    sources::source::{Progress, cancelled},
};

/// Pause between two attempts to lock a folder.
const LOCK_TICK: Duration = Duration::from_millis(50);
/// Time after which a wait for a lock is logged.
const LOCK_REPORTED_AFTER: Duration = Duration::from_secs(2);
/// Folders with unfinished downloads that are kept.
const UNFINISHED_MAX: usize = 8;
/// Folders that are kept, most of which hold only how to ask whether the source changed.
const FOLDERS_MAX: usize = 256;
/// A folder of a source that is not configured is removed at start if it is older. Until then, a person
/// may resume the download.
const UNCONFIGURED_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A locked folder. Dropping it releases the lock.
#[derive(Debug)]
pub(super) struct DownloadFolder {
    path: PathBuf,
    _lock: File,
}

impl DownloadFolder {
    /// Creates the folder of a source and locks it. Waits while another update uses it.
    ///
    /// # Errors
    /// A disk error, or waiting was cancelled.
    pub(super) fn open(
        layout: &Layout,
        uri: &SourceUri,
        progress: Progress<'_>,
    ) -> Result<Self, Refusal> {
        let path = layout.downloads().join(name(uri));
        let (start, mut is_logged) = (Instant::now(), false);
        loop {
            let locked = fs::create_dir_all(&path).and_then(|()| Self::try_lock(&path));
            if let Some(folder) = locked.map_err(|error| io_refusal(&path, &error))? {
                return Ok(folder);
            }
            if progress.is_cancelled() {
                return Err(cancelled());
            }
            // A check holds the lock for a moment, which is not worth a line.
            if !is_logged && start.elapsed() > LOCK_REPORTED_AFTER {
                tracing::info!(source = %uri, "waiting for another download of the same source");
                is_logged = true;
            }
            thread::sleep(LOCK_TICK);
        }
    }

    /// Returns the folder unless another user has locked or removed it.
    fn try_lock(path: &Path) -> io::Result<Option<Self>> {
        let lock = File::open(path)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        let is_same = fs::metadata(path).is_ok_and(|there| {
            lock.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()))
        });
        Ok(is_same.then(|| Self { path: path.to_owned(), _lock: lock }))
    }

    /// Returns the folder's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes all files but the fetcher's small state, which makes the next poll cheap.
    pub(super) fn discard(&self) {
        let state = self.path.join(fetch::STATE);
        let own = state.parent().unwrap_or(&self.path);
        for entry in entries(&self.path).chain(entries(own)) {
            if entry != own && entry != state {
                // What stays only takes space, until the folder is removed.
                let _ = match entry.is_dir() {
                    true => fs::remove_dir_all(&entry),
                    false => fs::remove_file(&entry),
                };
            }
        }
    }

    /// Returns whether the folder holds more than the fetcher's state.
    fn is_unfinished(path: &Path) -> bool {
        let state = path.join(fetch::STATE);
        let own = state.parent().unwrap_or(path);
        entries(path).any(|entry| entry != own) || entries(own).any(|entry| entry != state)
    }
}

/// Discards the oldest unfinished downloads and removes the oldest folders, if there are too many.
/// Those in use stay.
pub(super) fn prune(layout: &Layout) {
    let (mut unfinished, mut all) = (0, 0);
    for (path, _) in newest_first(layout) {
        all += 1;
        unfinished += usize::from(DownloadFolder::is_unfinished(&path));
        let is_surplus = all > FOLDERS_MAX;
        if is_surplus {
            remove(&path);
        } else if unfinished > UNFINISHED_MAX
            && let Ok(Some(folder)) = DownloadFolder::try_lock(&path)
        {
            tracing::info!(path = %path.display(), "removing an old unfinished download");
            folder.discard();
        }
    }
}

/// Removes old folders of sources that are not `configured`.
pub(in crate::models) fn remove_unconfigured(layout: &Layout, configured: &[&SourceUri]) {
    let configured: HashSet<PathBuf> =
        configured.iter().map(|uri| layout.downloads().join(name(uri))).collect();
    for (path, changed) in newest_first(layout) {
        if !configured.contains(&path) && is_older(changed, UNCONFIGURED_MAX) {
            tracing::info!(path = %path.display(), "removing the download of a source that is not configured");
            remove(&path);
        }
    }
}

/// Returns the folders of sources that are not `configured`.
pub(in crate::models) fn others(layout: &Layout, configured: &[SourceUri]) -> Vec<PathBuf> {
    let configured: HashSet<PathBuf> =
        configured.iter().map(|uri| layout.downloads().join(name(uri))).collect();
    entries(&layout.downloads()).filter(|path| !configured.contains(path)).collect()
}

fn remove(path: &Path) {
    if let Ok(Some(_locked)) = DownloadFolder::try_lock(path)
        && let Err(error) = fs::remove_dir_all(path)
    {
        tracing::warn!(path = %path.display(), %error, "failed to remove an old download");
    }
}

/// Returns whether something changed longer ago than `age`.
#[expect(clippy::disallowed_methods, reason = "compared with file times, which use the same clock")]
pub(in crate::models) fn is_older(changed: SystemTime, age: Duration) -> bool {
    SystemTime::now().duration_since(changed).is_ok_and(|elapsed| elapsed > age)
}

/// Returns all folders with the times of their last change.
fn newest_first(layout: &Layout) -> Vec<(PathBuf, SystemTime)> {
    let changed = |path: PathBuf| {
        let time = fs::metadata(&path).and_then(|found| found.modified());
        (path, time.unwrap_or(SystemTime::UNIX_EPOCH))
    };
    let mut folders: Vec<_> = entries(&layout.downloads()).map(changed).collect();
    folders.sort_by(|(_, one), (_, other)| other.cmp(one));
    folders
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Returns the name of a source's folder. Variants of a model have different files, so the whole URI
/// counts.
fn name(uri: &SourceUri) -> String {
    hex(&Sha256::digest(uri.to_string())[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(layout: &Layout, uri: &str) -> DownloadFolder {
        DownloadFolder::open(layout, &uri.parse().unwrap(), &|_| {}).unwrap()
    }

    struct Cancelled;

    impl crate::models::sources::Follow for Cancelled {
        fn report(&self, _: crate::models::sources::Transfer) {}

        fn is_cancelled(&self) -> bool {
            true
        }
    }

    fn fill(folder: &DownloadFolder) {
        fs::create_dir_all(folder.path().join("onnx")).unwrap();
        fs::create_dir_all(folder.path().join(".onnxd-fetch")).unwrap();
        for path in ["onnx/model.onnx", ".onnxd-fetch/.x.part", fetch::STATE] {
            fs::write(folder.path().join(path), "x").unwrap();
        }
    }

    #[test]
    fn two_updates_of_one_source_share_no_folder_at_once() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let first = opened(&layout, "hf://org/name?variant=int8");
        let other = opened(&layout, "hf://org/name");
        assert_ne!(first.path(), other.path(), "each variant has its folder");
        let uri = "hf://org/name".parse().unwrap();
        assert!(DownloadFolder::open(&layout, &uri, &Cancelled).is_err());
        let waiting = thread::spawn({
            let layout = layout.clone();
            move || opened(&layout, "hf://org/name").path().to_owned()
        });
        thread::sleep(LOCK_TICK);
        assert!(!waiting.is_finished());
        // A folder that was removed meanwhile is created again.
        fs::remove_dir_all(other.path()).unwrap();
        let path = other.path().to_owned();
        drop(other);
        assert_eq!(waiting.join().unwrap(), path);
        assert!(path.exists());
    }

    #[test]
    fn discarded_downloads_keep_the_state_of_the_fetcher() {
        let root = tempfile::tempdir().unwrap();
        let folder = opened(&Layout::new(root.path()), "hf://org/name");
        fill(&folder);
        assert!(DownloadFolder::is_unfinished(folder.path()));
        folder.discard();
        assert!(!DownloadFolder::is_unfinished(folder.path()));
        assert!(folder.path().join(fetch::STATE).exists());
    }

    #[test]
    fn only_the_newest_unfinished_downloads_and_those_in_use_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let mut in_use = None;
        for number in 0..UNFINISHED_MAX as u64 + 2 {
            let folder = opened(&layout, &format!("hf://org/name{number}"));
            fill(&folder);
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(number);
            File::open(folder.path()).unwrap().set_modified(time).unwrap();
            in_use.get_or_insert(folder);
        }
        prune(&layout);
        let is_unfinished = |number: usize| {
            let uri: SourceUri = format!("hf://org/name{number}").parse().unwrap();
            DownloadFolder::is_unfinished(&layout.downloads().join(name(&uri)))
        };
        assert!(is_unfinished(0), "it is in use");
        assert!(!is_unfinished(1));
        assert!((2..UNFINISHED_MAX + 2).all(is_unfinished));
    }

    #[test]
    fn old_folders_of_sources_that_are_not_configured_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let (configured, other, fresh) = ("hf://org/a", "hf://org/b", "hf://org/c");
        for uri in [configured, other] {
            let folder = opened(&layout, uri);
            File::open(folder.path()).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        drop(opened(&layout, fresh));
        remove_unconfigured(&layout, &[&configured.parse().unwrap()]);
        let exists = |uri: &str| layout.downloads().join(name(&uri.parse().unwrap())).exists();
        assert_eq!((exists(configured), exists(other), exists(fresh)), (true, false, true));
    }
}
