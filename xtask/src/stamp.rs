//! Records finished steps: hashes, and stamp files that hold the key of a finished step.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::error::Error;

/// Returns the SHA-256 of a file in hexadecimal.
pub(crate) fn sha256_of_file(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io("cannot open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(Error::io("cannot read", path))?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// Returns one SHA-256 over several files, which changes when any of them does.
pub(crate) fn key_of_files(paths: &[PathBuf]) -> Result<String, Error> {
    let mut hash = Sha256::new();
    for path in paths {
        hash.update(sha256_of_file(path)?);
    }
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns whether the stamp holds exactly this key.
pub(crate) fn matches(stamp: &Path, key: &str) -> bool {
    fs::read_to_string(stamp).is_ok_and(|content| content == key)
}

pub(crate) fn write(stamp: &Path, key: &str) -> Result<(), Error> {
    fs::write(stamp, key).map_err(Error::io("cannot write", stamp))
}

/// Result of comparing a file with its pinned hash.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Missing,
    Matches,
    Differs { actual: String },
}

/// Compares a file with its pinned hash. A verified file is not read again until its size or
/// modification time changes.
pub(crate) fn verify(path: &Path, expected: &str) -> Result<Verdict, Error> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(Verdict::Missing) };
    let stamp = verified_stamp(path);
    let key =
        format!("{expected} {} {}.{}", metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    if matches(&stamp, &key) {
        return Ok(Verdict::Matches);
    }
    let actual = sha256_of_file(path)?;
    if actual != expected {
        return Ok(Verdict::Differs { actual });
    }
    write(&stamp, &key)?;
    Ok(Verdict::Matches)
}

/// Hidden, so that a search for the file by prefix does not find the stamp.
fn verified_stamp(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.verified"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `abc`, from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn verify_detects_missing_differing_and_matching_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        assert_eq!(verify(&file, ABC).unwrap(), Verdict::Missing);
        fs::write(&file, "abcd").unwrap();
        let Verdict::Differs { actual } = verify(&file, ABC).unwrap() else {
            panic!("no difference")
        };
        assert_eq!(actual, sha256_of_file(&file).unwrap());
        fs::write(&file, "abc").unwrap();
        assert_eq!(verify(&file, ABC).unwrap(), Verdict::Matches);
    }

    #[test]
    fn a_verified_file_is_trusted_until_size_or_time_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "abc").unwrap();
        verify(&file, ABC).unwrap();
        let time = fs::metadata(&file).unwrap().modified().unwrap();

        // With the same size and time the stamp is trusted, even though the content differs.
        fs::write(&file, "xyz").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        assert_eq!(verify(&file, ABC).unwrap(), Verdict::Matches);

        let later = time + std::time::Duration::from_secs(1);
        File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
        assert!(matches!(verify(&file, ABC).unwrap(), Verdict::Differs { .. }));
    }

    #[test]
    fn a_stamp_is_valid_for_one_hash_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "abc").unwrap();
        verify(&file, ABC).unwrap();
        assert!(matches!(verify(&file, &"0".repeat(64)).unwrap(), Verdict::Differs { .. }));
    }

    #[test]
    fn the_key_depends_on_every_file() {
        let dir = tempfile::tempdir().unwrap();
        let files = [dir.path().join("one"), dir.path().join("two")];
        fs::write(&files[0], "1").unwrap();
        fs::write(&files[1], "2").unwrap();
        let before = key_of_files(&files).unwrap();
        assert_eq!(key_of_files(&files).unwrap(), before);
        fs::write(&files[1], "3").unwrap();
        assert_ne!(key_of_files(&files).unwrap(), before);
    }
}
