//! Reads small files that may hold secrets: keys and certificates. Errors never quote the content.

use std::{fs, fs::File, io, io::Read, path::Path};

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a regular file")]
    NoFile,
    #[error("the file is longer than {0} bytes")]
    Long(u64),
}

/// Reads the whole file. Follows links: container platforms mount and renew secrets through them.
///
/// # Errors
/// The path is not a regular file, the file is longer than `bytes_max`, or it cannot be read.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    // Checked before opening: opening a pipe would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(FileError::NoFile);
    }
    let mut bytes = Vec::new();
    let read = File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if read as u64 > bytes_max { Err(FileError::Long(bytes_max)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_long_and_special_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert!(matches!(read(&path, 3), Err(FileError::Io(_))));
        assert!(matches!(read(directory.path(), 3), Err(FileError::NoFile)));
        assert!(matches!(read(Path::new("/dev/zero"), 3), Err(FileError::NoFile)));
        fs::write(&path, "123").unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"123");
        fs::write(&path, "1234").unwrap();
        assert!(matches!(read(&path, 3), Err(FileError::Long(3))));
    }
}
