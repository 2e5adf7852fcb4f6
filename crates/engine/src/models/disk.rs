//! Turns disk errors into refusals and digests into text. Used by the store and by sources.

use std::{io, path::Path};

use onnxd_proto::domain::{Refusal, RefusalKind};

/// Returns the refusal for a disk error: `Space` if the disk is full, else `Internal`.
pub(super) fn io_refusal(path: &Path, error: &io::Error) -> Refusal {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    let kind = if full { RefusalKind::Space } else { RefusalKind::Internal };
    kind.because(format!("{}: {error}", path.display()))
}

/// Encodes bytes as lowercase hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}
