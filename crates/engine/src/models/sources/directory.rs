//! A directory as a source, laid out as on the Hugging Face hub. The directory is opened once, and
//! [`Tree`] opens files below it, so a version never mixes two directories. Its content at one moment
//! is a [`DirectorySnapshot`].

use std::{path::PathBuf, sync::Arc};

use onnxd_proto::domain::{Checksums, ModelChoice, Refusal, RefusalKind};

use crate::models::sources::{
    Conditions,
    digests::Digests,
    directory_snapshot::{DirectorySnapshot, snapshot_of},
    lister::Lister,
    source::{Progress, Resolved, Snapshot, SnapshotId, Source},
    tree::Tree,
};

/// Maximum listings of a source whose model keeps changing.
const LISTINGS_MAX: usize = 3;

/// A directory that holds a model.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    choice: ModelChoice,
    conditions: Conditions,
    digests: Arc<Digests>,
    lister: Arc<dyn Lister>,
}

impl Directory {
    /// Returns the directory at `path` without opening it.
    pub(super) fn new(
        path: PathBuf,
        choice: ModelChoice,
        conditions: Conditions,
        digests: Arc<Digests>,
        lister: Arc<dyn Lister>,
    ) -> Self {
        Self { path, choice, conditions, digests, lister }
    }
}

impl Source for Directory {
    fn resolve(
        &self,
        known: Option<&SnapshotId>,
        _progress: Progress<'_>,
    ) -> Result<Resolved, Refusal> {
        let snapshot = self.snapshot()?;
        // Checksums may list files outside the snapshot, so compare them every time.
        let has_checksums = snapshot.tree.open_file(Checksums::FILE)?.is_some();
        match known {
            Some(known) if known == snapshot.id() && !has_checksums => Ok(Resolved::Unchanged),
            _ => {
                self.require_settled(&snapshot)?;
                snapshot.log_choice(&snapshot.tree.path().display());
                Ok(Resolved::Changed(Box::new(snapshot)))
            }
        }
    }

    fn peek(
        &self,
        known: Option<&SnapshotId>,
        _progress: Progress<'_>,
    ) -> Result<Option<SnapshotId>, Refusal> {
        let snapshot = self.snapshot()?;
        if known == Some(snapshot.id()) {
            return Ok(None);
        }
        self.require_settled(&snapshot)?;
        Ok(Some(snapshot.id().clone()))
    }
}

impl Directory {
    /// Opens the files that make up a version.
    ///
    /// # Errors
    /// `Contract` if the model or a file it needs is missing or outside the source, or if the files
    /// exceed the limits of a version; `Internal` if a file cannot be read. Each names the file or the
    /// directory.
    pub(super) fn snapshot(&self) -> Result<DirectorySnapshot, Refusal> {
        for _ in 0..LISTINGS_MAX {
            let tree = Tree::open(&self.path)?;
            let listed = self.lister.list(&tree, &self.choice);
            let listing = listed.map_err(|refusal| {
                let message = format!("{}: {}", tree.path().display(), refusal.message);
                refusal.with_message(message)
            })?;
            if let Some(mut snapshot) = snapshot_of(tree, listing, &self.digests)? {
                snapshot.keys = self.conditions.keys.clone();
                return Ok(snapshot);
            }
        }
        let path = self.path.display();
        let message = format!(
            "{path}: the model kept changing while it was read; retry once the upload is complete"
        );
        Err(RefusalKind::Contract.because(message))
    }

    /// Refuses a directory that has just changed, unless a `SHA256SUMS` tells when it is complete.
    fn require_settled(&self, snapshot: &DirectorySnapshot) -> Result<(), Refusal> {
        let settle = self.conditions.settle;
        if settle.is_zero() || snapshot.tree.open_file(Checksums::FILE)?.is_some() {
            return Ok(());
        }
        snapshot.unsettled(settle).map_or(Ok(()), |fresh| {
            let (path, seconds) = (self.path.display(), settle.as_secs());
            Err(RefusalKind::Incomplete.because(format!(
                "{path}: {fresh} changed less than {seconds} s ago, so a copy may be running; retry later, or upload {} last",
                Checksums::FILE
            )))
        })
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
