//! Compares a version with its manifest. Called by the [store](super) before it serves a kept version,
//! and by the [survey](super::maintenance::survey).

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use onnxd_proto::{
    domain::FileStamp,
    layout::{LARGE_BYTES, Layout, MANIFEST, MANIFEST_BYTES_MAX, is_hidden},
    manifest::{Entry, entries, files},
    regular,
};
use sha2::{Digest, Sha256};

use crate::models::{
    disk::{hex, replace},
    sources::digests::Identity,
};

/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Maximum bytes of the stored metadata of a version's large files.
const STAMPS_BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// What is wrong, with the file's name.
    pub reason: String,
    /// Whether its content is wrong, rather than unreadable for now.
    pub is_certain: bool,
}

/// Metadata of large files that were equal to the manifest, by path.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Stamps(BTreeMap<PathBuf, FileStamp>);

impl Damage {
    fn certain(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_certain: true }
    }

    fn of(what: &str, error: &io::Error) -> Self {
        use io::ErrorKind::{InvalidData, NotADirectory, NotFound};
        let is_certain = matches!(error.kind(), InvalidData | NotADirectory | NotFound);
        Self { reason: format!("{what} cannot be read: {error}"), is_certain }
    }
}

impl Stamps {
    /// Returns the path in the compiled form, which goes with its version.
    fn path(layout: &Layout, version: &str) -> PathBuf {
        layout.compiled(version).join("verified")
    }

    /// Reads what [`Stamps::write`] stored. Without it, large files are read as well.
    pub(super) fn read(layout: &Layout, version: &str) -> Self {
        let text = regular::read(&Self::path(layout, version), STAMPS_BYTES_MAX).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// # Errors
    /// A disk error. Then the next start reads the files again.
    pub(super) fn write(&self, layout: &Layout, version: &str) -> io::Result<()> {
        replace(&Self::path(layout, version), &serde_json::to_vec(self)?)
    }
}

/// Compares a version with its manifest, except for the content of large files that are unchanged since
/// [`Stamps::write`].
///
/// # Errors
/// What is wrong.
pub(super) fn compare_again(layout: &Layout, version: &str) -> Result<Stamps, Damage> {
    compare(layout, version, &Stamps::read(layout, version))
}

/// Compares every file of a version with its manifest. Does not read large files that have the
/// metadata in `known`. Returns the metadata of all large files.
///
/// # Errors
/// What is wrong.
pub(super) fn compare(layout: &Layout, version: &str, known: &Stamps) -> Result<Stamps, Damage> {
    let folder = &layout.version(version);
    match fs::symlink_metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => return Err(Damage::certain("it is not a directory")),
        Err(error) => return Err(Damage::of("it", &error)),
        Ok(_) => {}
    }
    let manifest = regular::read(&folder.join(MANIFEST), MANIFEST_BYTES_MAX)
        .map_err(|error| Damage::of(MANIFEST, &error))?;
    if hex(&Sha256::digest(&manifest)) != version {
        return Err(Damage::certain(format!("{MANIFEST} was changed")));
    }
    let manifest = String::from_utf8_lossy(&manifest);
    let mut expected: HashMap<&Path, Entry<'_>> =
        entries(&manifest).map(|entry| (Path::new(entry.path), entry)).collect();
    let files = files(folder).map_err(|error| Damage::of("the list of its files", &error))?;
    let mut stamps = BTreeMap::new();
    for path in files {
        let shown = path.display();
        let entry = match expected.remove(path.as_path()) {
            Some(entry) => entry,
            None if is_hidden(&path) => continue,
            None => return Err(Damage::certain(format!("{shown} does not belong to it"))),
        };
        let is_equal = is_equal(&folder.join(&path), &entry, known.0.get(&path));
        match is_equal.map_err(|error| Damage::of(&shown.to_string(), &error))? {
            (false, _) => return Err(Damage::certain(format!("{shown} was changed"))),
            (true, Some(stamp)) => drop(stamps.insert(path, stamp)),
            (true, None) => {}
        }
    }
    match expected.keys().min() {
        Some(file) => Err(Damage::certain(format!("{} is missing", file.display()))),
        None => Ok(Stamps(stamps)),
    }
}

/// Returns whether a file has this digest and length. Also returns its metadata, if it is large and a
/// later change would show in it.
fn is_equal(
    path: &Path,
    &Entry { sha256, bytes, .. }: &Entry<'_>,
    known: Option<&FileStamp>,
) -> io::Result<(bool, Option<FileStamp>)> {
    let mut file = match regular::open(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok((false, None)),
        file => file?,
    };
    let before = Identity::read(&file)?;
    if before.bytes() != bytes {
        return Ok((false, None));
    }
    let stamp = stamp(&file)?;
    let is_large = bytes > LARGE_BYTES;
    if is_large && known == Some(&stamp) {
        return Ok((true, Some(stamp)));
    }
    let is_equal = digest(&mut file)? == sha256;
    let is_settled = before.is_settled() && Identity::read(&file)? == before;
    Ok((is_equal, (is_large && is_settled).then_some(stamp)))
}

/// Returns a file's metadata. Some file systems number their device anew with each mount.
fn stamp(file: &File) -> io::Result<FileStamp> {
    Ok(FileStamp { device: 0, ..FileStamp::from(&file.metadata()?) })
}

fn digest(file: &mut File) -> io::Result<String> {
    let (mut digest, mut chunk) = (Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hex(&digest.finalize())),
            count => digest.update(&chunk[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        time::{Duration, SystemTime},
    };

    use super::*;

    /// Returns a state directory with a version that has a large file and a small one.
    fn kept() -> (tempfile::TempDir, Layout, String) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path());
        let large = vec![7; usize::try_from(LARGE_BYTES).unwrap() + 1];
        let files = [("config.json", &b"{}"[..]), ("model.onnx", &large)];
        let line = |(path, content): &(&str, &[u8])| {
            format!("{}  {}  {path}\n", hex(&Sha256::digest(content)), content.len())
        };
        let lines: String = files.iter().map(line).collect();
        let manifest = format!("onnxd manifest 1\n{lines}");
        let version = hex(&Sha256::digest(&manifest));
        let folder = layout.version(&version);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(MANIFEST), manifest).unwrap();
        files.iter().for_each(|(path, content)| fs::write(folder.join(path), content).unwrap());
        (root, layout, version)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the time of a file is compared with the clock")]
    fn a_large_file_is_read_again_only_if_its_metadata_has_changed() {
        let (_root, layout, version) = kept();
        let model = layout.version(&version).join("model.onnx");
        let none = Stamps::default();
        assert_eq!(compare(&layout, &version, &none), Ok(Stamps::default()), "too new to be sure");
        // Wait until a change would show in the times of the file.
        let changed = || FileStamp::from(&fs::metadata(&model).unwrap()).changed.0;
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        while now() <= u64::try_from(changed()).unwrap() + 2 {
            std::thread::sleep(Duration::from_millis(50));
        }
        let stamps = compare(&layout, &version, &none).unwrap();
        assert_eq!(stamps.0.keys().collect::<Vec<_>>(), [Path::new("model.onnx")]);
        stamps.write(&layout, &version).unwrap();
        assert_eq!(Stamps::read(&layout, &version), stamps);
        assert_eq!(compare(&layout, &version, &stamps), Ok(stamps));
        // The size and the time of the last modification are those from before.
        let stamps = Stamps::read(&layout, &version);
        let modified = fs::metadata(&model).unwrap().modified().unwrap();
        let file = File::options().write(true).open(&model).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"x", 9).unwrap();
        file.set_modified(modified).unwrap();
        let damage = compare(&layout, &version, &stamps).unwrap_err();
        assert_eq!(damage, Damage::certain("model.onnx was changed"));
    }

    #[test]
    fn a_small_file_is_always_read() {
        let (_root, layout, version) = kept();
        let config = layout.version(&version).join("config.json");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&config, "[]").unwrap();
        let damage = compare(&layout, &version, &Stamps::default()).unwrap_err();
        assert_eq!(damage, Damage::certain("config.json was changed"));
    }
}
