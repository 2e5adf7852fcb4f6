//! Turns disk errors into refusals and digests into text, and replaces small files. Used by the store and by sources.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use onnxd_proto::domain::{Refusal, RefusalKind};

/// Maximum bytes of what is stored about a source.
pub(super) const STORED_BYTES_MAX: u64 = 1 << 20;

/// Returns the refusal for a disk error: `Space` if the disk is full, else `Internal`.
pub(super) fn io_refusal(path: &Path, error: &io::Error) -> Refusal {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    let kind = if full { RefusalKind::Space } else { RefusalKind::Internal };
    kind.because(format!("{}: {error}", path.display()))
}

/// Replaces a small file. A reader finds the old or the new content. Creates its folder.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    fs::write(&unfinished, content)?;
    fs::rename(unfinished, path)
}

/// Encodes bytes as lowercase hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}
