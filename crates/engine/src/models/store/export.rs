//! Reads a source without serving it: for `onnxd source` and `onnxd fetch`, which have a temporary
//! store.

use std::{
    fmt::Write as _,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use onnxd_proto::domain::{Checksums, ModelChoice, Refusal, RefusalKind, SourceUri, fetch::Pin};

use crate::models::{
    disk::io_refusal,
    sources::{Conditions, Fetched, FetchedFile, Progress, Resolved, SnapshotId, selection},
    store::{Store, identify, sync_directory},
};

/// The content of a source, as an update would stage it. Dropping it removes the files.
#[derive(Debug)]
pub struct Export {
    /// The snapshot that the source holds.
    pub snapshot: SnapshotId,
    /// What holds the snapshot together; `None` for a directory.
    pub pin: Option<Pin>,
    /// The digest that the version would have.
    pub version: String,
    /// Total bytes of the files.
    pub bytes: u64,
    /// The files, sorted by path.
    pub files: Vec<FetchedFile>,
    /// The files with checksums and signatures, which are not part of the version.
    proofs: Vec<(&'static str, Vec<u8>)>,
    /// Whether the source chose the model file. Else its checksums may list another one.
    is_whole: bool,
    folder: tempfile::TempDir,
}

impl Store {
    /// Fetches a source's content into `staging/`. Blocking.
    ///
    /// # Errors
    /// Those of the source, see [`sources`](crate::models::sources), or a disk error. Leaves nothing
    /// behind.
    pub fn export(&self, uri: &SourceUri, progress: Progress<'_>) -> Result<Export, Refusal> {
        let resolve = |with_signatures| {
            let conditions = Conditions { with_signatures, ..Conditions::default() };
            self.sources.open(uri, &self.layout, &conditions).resolve(None, progress)
        };
        let resolved = match resolve(true) {
            // Some servers do not tell whether there is a signature before its download.
            Err(refusal) if refusal.kind == RefusalKind::Incomplete => resolve(false)?,
            resolved => resolved?,
        };
        let Resolved::Changed(snapshot) = resolved else {
            let message = "internal error: a source matches an unknown snapshot";
            return Err(RefusalKind::Internal.because(message));
        };
        let staging = self.layout.staging();
        let folder =
            tempfile::tempdir_in(&staging).map_err(|error| io_refusal(&staging, &error))?;
        let Fetched { files, .. } = snapshot.fetch(folder.path(), progress)?;
        let mut proofs = Vec::new();
        for path in selection::PROOFS {
            proofs.extend(snapshot.proof(path)?.map(|content| (path, content)));
        }
        snapshot.verify(&files)?;
        let is_whole = *uri.choice() == ModelChoice::Unstated;
        let (_, version, bytes) = identify(&files);
        let (pin, snapshot) = (snapshot.pin(), snapshot.id().clone());
        Ok(Export { snapshot, pin, version, bytes, files, proofs, is_whole, folder })
    }
}

impl Export {
    /// Moves the files into `target`, an empty directory on the store's file system, and makes them
    /// durable. Writes `SHA256SUMS` last: a directory without it is incomplete. That and the signatures
    /// are those of the source, if it has any. Blocking.
    ///
    /// # Errors
    /// A disk error; the message names the file.
    pub fn move_to(&self, target: &Path) -> Result<(), Refusal> {
        let mut checksums = String::new();
        for FetchedFile { path, sha256, .. } in &self.files {
            let to = target.join(path);
            move_file(&self.folder.path().join(path), &to)
                .map_err(|error| io_refusal(&to, &error))?;
            let _ = writeln!(checksums, "{sha256}  {path}");
        }
        for (path, content) in self.proofs.iter().filter(|(path, _)| *path != Checksums::FILE) {
            self.write(&target.join(path), content)?;
        }
        let original = self.proof(Checksums::FILE).filter(|_| self.keeps_checksums());
        self.write(&target.join(Checksums::FILE), original.unwrap_or(checksums.as_bytes()))
    }

    fn proof(&self, path: &str) -> Option<&[u8]> {
        let found = self.proofs.iter().find(|(proof, _)| *proof == path);
        found.map(|(_, content)| content.as_slice())
    }

    /// Returns whether the source's `SHA256SUMS` describes the exported directory. A signature is valid
    /// for no other.
    fn keeps_checksums(&self) -> bool {
        self.is_whole || self.proof(Checksums::SIGNATURE).is_some()
    }

    /// Writes a small file durably. A reader finds all of it or nothing.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), Refusal> {
        let unfinished = self.folder.path().join(".unfinished");
        let written = fs::write(&unfinished, content).and_then(|()| move_file(&unfinished, path));
        written.map_err(|error| io_refusal(path, &error))
    }
}

/// Makes a file durable and readable for everyone, and moves it.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    fs::set_permissions(from, Permissions::from_mode(0o644))?;
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder)?;
    fs::rename(from, to)?;
    sync_directory(folder)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::models::{disk::hex, sources::fake::ByName};

    #[test]
    fn exported_files_are_those_of_the_version_and_verifiable() {
        let (source, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(source.path().join("onnx")).unwrap();
        for (path, content) in
            [("onnx/model.onnx", "graph"), ("config.json", "{}"), ("unrelated.bin", "x")]
        {
            fs::write(source.path().join(path), content).unwrap();
        }
        let target = tempfile::tempdir_in(root.path()).unwrap();
        let store = Store::open(&root.path().join("state"), 1, ByName::sources(), None).unwrap();
        let uri = SourceUri::from_directory(source.path());
        let staged = store.stage(&uri, &Conditions::default(), &|_| {}).unwrap();
        let export = store.export(&uri, &|_| {}).unwrap();
        assert_eq!((&export.version, export.bytes), (&staged.version, 7));
        assert_eq!(export.pin, None);
        export.move_to(target.path()).unwrap();
        let sums = fs::read_to_string(target.path().join(Checksums::FILE)).unwrap();
        let sums = Checksums::parse(&sums).unwrap();
        let listed: Vec<(&str, &str)> = sums.iter().collect();
        let files = export.files.iter();
        let expected: Vec<(&str, &str)> =
            files.map(|file| (file.path.as_str(), file.sha256.as_str())).collect();
        assert_eq!(listed, expected);
        assert_eq!(expected.len(), 2);
        // The same content is the same version, from wherever it comes.
        let copy = store
            .stage(&SourceUri::from_directory(target.path()), &Conditions::default(), &|_| {})
            .unwrap();
        assert_eq!(copy.version, staged.version);
    }

    #[test]
    fn signatures_are_exported_with_the_checksums_that_they_sign() {
        let (source, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let digest = hex(&Sha256::digest("graph"));
        // Written by hand: the order and the other file do not matter.
        let sums = format!("{}  large.bin\n{digest} *model.onnx\n", "0".repeat(64));
        let proofs = [
            (Checksums::FILE, sums.as_str()),
            (Checksums::SIGNATURE, "a signature"),
            ("model.sig", "a bundle"),
        ];
        for (path, content) in [&[("model.onnx", "graph")][..], &proofs].concat() {
            fs::write(source.path().join(path), content).unwrap();
        }
        let store = Store::open(&root.path().join("state"), 1, ByName::sources(), None).unwrap();
        let exported = |uri: &SourceUri| {
            let target = tempfile::tempdir_in(root.path()).unwrap();
            store.export(uri, &|_| {}).unwrap().move_to(target.path()).unwrap();
            target
        };
        let target = exported(&SourceUri::from_directory(source.path()));
        for (path, content) in proofs {
            assert_eq!(fs::read_to_string(target.path().join(path)).unwrap(), content);
        }
        // Without a signature, checksums of a part of the source are written anew.
        fs::remove_file(source.path().join(Checksums::SIGNATURE)).unwrap();
        let part = format!("{}?file=model.onnx", source.path().display()).parse().unwrap();
        let written = fs::read_to_string(exported(&part).path().join(Checksums::FILE)).unwrap();
        assert_eq!(written, format!("{digest}  model.onnx\n"));
    }

    #[test]
    fn incomplete_directory_has_no_checksums() {
        let (source, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(source.path().join("model.onnx"), "graph").unwrap();
        let store = Store::open(root.path(), 1, ByName::sources(), None).unwrap();
        let uri = SourceUri::from_directory(source.path());
        let export = store.export(&uri, &|_| {}).unwrap();
        let target = tempfile::tempdir_in(root.path()).unwrap();
        fs::create_dir(target.path().join("model.onnx")).unwrap();
        let refusal = export.move_to(target.path()).unwrap_err();
        assert!(refusal.message.contains("model.onnx"), "{refusal}");
        assert!(!target.path().join(Checksums::FILE).exists());
    }
}
