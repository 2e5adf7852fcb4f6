//! Checksums of rows.

use crc32fast::Hasher;

use super::Row;

/// Returns the checksum of a document.
pub(super) fn document_checksum(row: &Row) -> u32 {
    let Row { key, id, edition, text, payload } = row;
    let mut hasher = Hasher::new();
    hasher.update(&key.to_le_bytes());
    hasher.update(&edition.to_le_bytes());
    for part in [&id.to_bytes()[..], text.as_bytes(), payload.as_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

/// Returns the checksum of the last edition.
pub(super) fn edition_checksum(last: u64) -> u32 {
    crc32fast::hash(&last.to_le_bytes())
}

/// Returns the checksum of a document's vector.
pub(super) fn vector_checksum(key: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&key.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}
