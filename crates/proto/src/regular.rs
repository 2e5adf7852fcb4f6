//! Opens files of the state directory, which something else may have replaced: by a FIFO, on which
//! opening would wait, by a device, a link or a huge file. Called by supervisor and workers.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::libc::{ELOOP, ENXIO, O_NOFOLLOW, O_NONBLOCK};

/// Opens a file for reading, and never waits.
///
/// # Errors
/// Those of open(2), or `InvalidData` if it is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// Opens a file with `options`, and never waits.
///
/// # Errors
/// Those of open(2), or `InvalidData` if it is not a regular file.
pub fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path).map_err(|error| {
        match error.raw_os_error() {
            // A link, or a socket.
            Some(ELOOP | ENXIO) => not_regular(),
            _ => error,
        }
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

/// Reads a file of at most `bytes_max` bytes.
///
/// # Errors
/// Those of [`open`] and read(2), or `InvalidData` if it is longer.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > bytes_max {
        let message = format!("longer than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(content)
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a regular file")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{fs::symlink, net::UnixListener},
    };

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn anything_but_a_regular_file_is_refused_at_once() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), "abc").unwrap();
        mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        symlink(at("file"), at("link")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let paths = ["fifo", "link", "directory", "socket"].map(at);
        for path in paths.iter().map(|path| &**path).chain([Path::new("/dev/zero")]) {
            let error = read(path, 3).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{}", path.display());
        }
        assert_eq!(read(&at("file"), 3).unwrap(), b"abc");
        assert_eq!(read(&at("file"), 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(read(&at("missing"), 2).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
