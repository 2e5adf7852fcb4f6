//! A source on another server. A [fetcher](super::fetcher) downloads the files of a version into a
//! directory of ours, which is then read like any other source. Which files a version needs is known
//! step by step: first those selected by name, then the model file, then the weights that its graph
//! names.

use std::{cell::Cell, path::Path, time::Duration};

use onnxd_proto::{
    domain::{
        Listing, Refusal, RefusalKind, RemoteUri, SourceUri,
        fetch::{Pin, RemoteSnapshot as Offer, Resolve},
    },
    layout::Layout,
};

use crate::models::sources::{
    Conditions, Sources,
    directory_snapshot::{DirectorySnapshot, VERSION_BYTES_MAX},
    download::{Download, named, transfer},
    download_folder::{self, DownloadFolder},
    fetcher::Conversation,
    source::{
        Fetched, FetchedFile, Progress, Resolved, Snapshot, SnapshotFile, SnapshotId, Source,
    },
    tree::Tree,
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
    /// `id_only` leaves out its files.
    fn identify<'p>(
        &self,
        known: Option<&SnapshotId>,
        id_only: bool,
        progress: Progress<'p>,
    ) -> Result<(Conversation<'p>, Option<Offer>, DownloadFolder), Refusal> {
        let Some(fetcher) = &self.sources.fetcher else {
            let message = format!(
                "{}: onnxd-fetch, which reads other servers, was missing at start; install it beside \
                 onnxd or pass --fetch-binary, and restart onnxd",
                self.name()
            );
            return Err(RefusalKind::Internal.because(message));
        };
        let uri = SourceUri::Remote(self.uri.clone());
        let folder = DownloadFolder::open(&self.layout, &uri, progress)?;
        let mut conversation = fetcher.start(folder.path(), progress)?;
        let request = Resolve {
            source: self.name(),
            known: known.map(|known| known.as_str().to_owned()),
            allows_private: self.conditions.allows_private,
            wants_signature: self.conditions.with_signatures || !self.conditions.keys.is_empty(),
            id_only,
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
        let (conversation, offer, folder) = self.identify(known, false, progress)?;
        let Some(offer) = offer else { return Ok(Resolved::Unchanged) };
        download_folder::prune(&self.layout);
        let source = self.name();
        tracing::info!(source, snapshot = offer.id, pinned_by = %offer.pin, "new snapshot");
        for note in &offer.notes {
            tracing::info!(source, note, "source resolved");
        }
        progress.step("fetch");
        let downloaded = self.download(conversation, &offer, folder.path(), progress);
        match downloaded {
            Ok(files) => {
                files.log_choice(&source);
                let (id, is_settled) = (SnapshotId::new(offer.id.clone()), Cell::new(false));
                let downloaded = Downloaded { files, id, offer, source, folder, is_settled };
                Ok(Resolved::Changed(Box::new(downloaded)))
            }
            Err(refusal) => {
                if !refusal.kind.is_transient() {
                    folder.discard();
                }
                Err(refusal)
            }
        }
    }

    fn peek(
        &self,
        known: Option<&SnapshotId>,
        progress: Progress<'_>,
    ) -> Result<Option<SnapshotId>, Refusal> {
        let (_, offer, _) = self.identify(known, true, progress)?;
        Ok(offer.map(|offer| SnapshotId::new(offer.id)))
    }
}

impl Remote {
    /// Downloads the files of a version, and opens them.
    fn download(
        &self,
        mut conversation: Conversation<'_>,
        offer: &Offer,
        folder: &Path,
        progress: Progress<'_>,
    ) -> Result<DirectorySnapshot, Refusal> {
        let mut download = Download::begin(folder, &self.layout, offer)?;
        download.add(named(offer, true), &mut conversation, progress)?;
        for _ in 0..LISTINGS_MAX {
            let listing = download.with_placeholders(|| self.list(folder))?;
            let mut needed = named(offer, listing.model.is_some());
            needed.extend(listing.model.map(|model| model.file));
            needed.extend(listing.external);
            if !download.add(needed, &mut conversation, progress)? {
                // Nothing writes into the folder after its end.
                drop(conversation);
                let choice = self.uri.choice().clone();
                // The files have just been written.
                let conditions = Conditions { settle: Duration::ZERO, ..self.conditions.clone() };
                let files = self.sources.directory(folder.to_owned(), choice, conditions);
                return files.snapshot().map_err(|refusal| rename(folder, &self.name(), refusal));
            }
        }
        let message = format!("{}: the files of the model could not be found out", self.name());
        Err(RefusalKind::Contract.because(message))
    }

    /// Lists the model's files.
    fn list(&self, folder: &Path) -> Result<Listing, Refusal> {
        let tree = Tree::open(folder).map_err(|refusal| rename(folder, &self.name(), refusal))?;
        self.sources.lister.list(&tree, self.uri.choice()).map_err(|refusal| {
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

/// The downloaded files of a remote snapshot. Staging moves them.
#[derive(Debug)]
struct Downloaded {
    files: DirectorySnapshot,
    id: SnapshotId,
    offer: Offer,
    source: String,
    folder: DownloadFolder,
    /// Whether the files are not needed any more: they were staged, are kept, or are refused for good.
    is_settled: Cell<bool>,
}

impl Downloaded {
    /// Names the source in a refusal. After a transient one, another attempt resumes the download.
    fn refused(&self, refusal: Refusal) -> Refusal {
        self.is_settled.set(!refusal.kind.is_transient());
        rename(self.folder.path(), &self.source, refusal)
    }

    /// Compares the files with the digests that the source states. The fetcher has done so before, but
    /// something else may have written into the folder.
    fn compare(&self, files: &[FetchedFile]) -> Result<(), Refusal> {
        let stated = |file: &FetchedFile| {
            let offered = self.offer.files.iter().find(|offered| offered.path == file.path)?;
            offered.sha256.clone()
        };
        let differs =
            |file: &&FetchedFile| stated(file).is_some_and(|sha256| sha256 != file.sha256);
        files.iter().find(differs).map_or(Ok(()), |file| {
            let message = format!("{}: {} changed after its download", self.source, file.path);
            Err(RefusalKind::Internal.because(message))
        })
    }
}

impl Snapshot for Downloaded {
    fn id(&self) -> &SnapshotId {
        &self.id
    }

    fn pin(&self) -> Option<Pin> {
        Some(self.offer.pin)
    }

    fn files(&self) -> &[SnapshotFile] {
        self.files.files()
    }

    fn verify(&self, files: &[FetchedFile]) -> Result<(), Refusal> {
        self.files.verify(files).map_err(|refusal| self.refused(refusal))?;
        self.is_settled.set(true);
        Ok(())
    }

    fn proof(&self, path: &str) -> Result<Option<Vec<u8>>, Refusal> {
        self.files.proof(path).map_err(|refusal| self.refused(refusal))
    }

    fn fetch(&self, target: &Path, progress: Progress<'_>) -> Result<Fetched, Refusal> {
        let fetched = self.files.move_to(target, progress);
        let fetched = fetched.map_err(|refusal| self.refused(refusal))?;
        self.compare(&fetched.files)?;
        tracing::debug!(source = self.source, snapshot = self.id.as_str(), pinned_by = %self.offer.pin, "download staged");
        Ok(fetched)
    }
}

impl Drop for Downloaded {
    fn drop(&mut self) {
        if self.is_settled.get() {
            self.folder.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use onnxd_proto::domain::{Checksums, ModelChoice, fetch::RemoteFile};

    use super::*;
    use crate::models::sources::fake::ByName;

    /// Returns a download of these files, of which the source states the digest of "x".
    fn downloaded(root: &Path, files: &[(&str, &str)]) -> Downloaded {
        let uri = "https://host/m".parse().unwrap();
        let folder = DownloadFolder::open(&Layout::new(root), &uri, &|_| {}).unwrap();
        for (path, content) in files {
            fs::write(folder.path().join(path), content).unwrap();
        }
        let path = folder.path().to_owned();
        let files = ByName::sources().directory(path, ModelChoice::Unstated, Conditions::default());
        let (files, source) = (files.snapshot().unwrap(), "https://host/m/".to_owned());
        let sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        let model = RemoteFile {
            path: "model.onnx".to_owned(),
            bytes: Some(1),
            sha256: Some(sha256.to_owned()),
        };
        let id = SnapshotId::new("sha256:0".to_owned());
        let (pin, files_offered) = (Pin::Checksums, vec![model]);
        let offer =
            Offer { id: "sha256:0".to_owned(), pin, files: files_offered, notes: Vec::new() };
        Downloaded { files, id, offer, source, folder, is_settled: Cell::new(false) }
    }

    fn is_empty(folder: &Path) -> bool {
        fs::read_dir(folder).unwrap().next().is_none()
    }

    #[test]
    fn faults_of_downloaded_files_name_the_source() {
        let root = tempfile::tempdir().unwrap();
        let files = [("model.onnx", "x"), (Checksums::FILE, "not a checksum")];
        let downloaded = downloaded(root.path(), &files);
        let refusal = downloaded.verify(&[]).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Checksum);
        assert!(refusal.message.starts_with("https://host/m/: SHA256SUMS"), "{}", refusal.message);
        let folder = downloaded.folder.path().to_owned();
        drop(downloaded);
        assert!(is_empty(&folder), "what is refused for good is removed");
    }

    #[test]
    fn files_that_changed_after_their_download_are_not_staged() {
        let root = tempfile::tempdir().unwrap();
        for (content, is_right) in [("x", true), ("\0", false)] {
            let target = tempfile::tempdir_in(root.path()).unwrap();
            let downloaded = downloaded(root.path(), &[("model.onnx", content)]);
            let fetched = downloaded.fetch(target.path(), &|_| {});
            let refused = fetched.err().map(|refusal| refusal.message);
            let expected = "https://host/m/: model.onnx changed after its download";
            assert_eq!(refused.as_deref(), (!is_right).then_some(expected));
        }
    }

    #[test]
    fn download_stays_if_another_attempt_may_succeed() {
        let root = tempfile::tempdir().unwrap();
        let downloaded = downloaded(root.path(), &[("model.onnx", "x")]);
        let folder = downloaded.folder.path().to_owned();
        let missing = root.path().join("missing/target");
        fs::write(root.path().join("missing"), "not a directory").unwrap();
        let refusal = downloaded.fetch(&missing, &|_| {}).unwrap_err();
        assert!(refusal.kind.is_transient(), "{refusal}");
        drop(downloaded);
        assert_eq!(fs::read_to_string(folder.join("model.onnx")).unwrap(), "x");
    }
}
