//! Checks the log of transactions (SQLite's WAL) before it is replayed. SQLite takes the first frame
//! that is damaged for the end of the log, because a crash leaves such an end. Transactions after it
//! would be lost in silence, although they were acknowledged.
//!
//! A transaction is synced before the next one begins. So a damaged frame is no end if its transaction
//! has an end, and frames follow. The last transaction cannot be told from one that a crash cut.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The first bytes of a log whose checksums read words as little-endian; one more means big-endian.
const MAGIC: u32 = 0x377f_0682;

/// What is found of a frame after the first damaged one.
#[derive(Default)]
struct Rest {
    is_damaged: bool,
    /// The transaction of the damaged frame has an end.
    has_ended: bool,
}

/// A running checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Checksum {
    sums: (u32, u32),
    is_big_endian: bool,
}

/// Returns whether a log has lost transactions that are certain to have been acknowledged. A log that
/// does not exist has not.
///
/// # Errors
/// The log cannot be read.
pub(super) fn is_damaged(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut log = BufReader::with_capacity(1 << 18, file);
    let mut header = [0; HEADER_BYTES];
    // A header is written and synced in one piece, before any frame.
    if !fill(&mut log, &mut header)? || header == [0; HEADER_BYTES] {
        return Ok(false);
    }
    let magic = word(&header, 0);
    let mut checksum = Checksum { sums: (0, 0), is_big_endian: magic & 1 == 1 };
    checksum.add(&header[..24]);
    let page_bytes = word(&header, 8) as usize;
    if magic & !1 != MAGIC
        || !checksum.is_written_at(&header, 24)
        || !(512..=65_536).contains(&page_bytes)
    {
        return Ok(true);
    }
    let salts = &header[16..24];
    let (mut frame, mut rest) = (vec![0; FRAME_HEADER_BYTES + page_bytes], Rest::default());
    while fill(&mut log, &mut frame)? {
        let has_salts = &frame[8..16] == salts;
        if rest.is_damaged {
            // Frames of an older log remain behind the end.
            if has_salts && rest.has_ended {
                return Ok(true);
            }
            rest.has_ended |= has_salts && word(&frame, 4) != 0;
            continue;
        }
        checksum.add(&frame[..8]);
        checksum.add(&frame[FRAME_HEADER_BYTES..]);
        if !has_salts || !checksum.is_written_at(&frame, 16) {
            rest = Rest { is_damaged: true, has_ended: word(&frame, 4) != 0 };
        }
    }
    Ok(false)
}

impl Checksum {
    /// Adds bytes, whose number is a multiple of 8.
    fn add(&mut self, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<4>();
        let read = match self.is_big_endian {
            true => u32::from_be_bytes,
            false => u32::from_le_bytes,
        };
        for pair in words.chunks_exact(2) {
            self.sums.0 = self.sums.0.wrapping_add(read(pair[0])).wrapping_add(self.sums.1);
            self.sums.1 = self.sums.1.wrapping_add(read(pair[1])).wrapping_add(self.sums.0);
        }
    }

    fn is_written_at(&self, bytes: &[u8], place: usize) -> bool {
        self.sums == (word(bytes, place), word(bytes, place + 4))
    }
}

/// Reads a big-endian number, as headers have them.
fn word(bytes: &[u8], place: usize) -> u32 {
    let bytes = bytes[place..].first_chunk::<4>();
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Fills the buffer. Returns false if the file ends before.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::Connection;
    use tempfile::{TempDir, tempdir};

    use super::*;

    /// Returns a log of 20 transactions, of which the last 10 are newer than those before them.
    fn log() -> (TempDir, Vec<u8>) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("a.db");
        let database = Connection::open(&path).unwrap();
        database.pragma_update(None, "journal_mode", "WAL").unwrap();
        database.execute_batch("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)").unwrap();
        for number in 0..20 {
            let text = "x".repeat(3000);
            database.execute("INSERT INTO t VALUES (?, ?)", (number, text)).unwrap();
            if number == 9 {
                // The next transaction begins the log anew, and leaves a part of this one behind.
                database.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
            }
        }
        let log = fs::read(folder.path().join("a.db-wal")).unwrap();
        (folder, log)
    }

    #[test]
    fn damage_before_the_last_transaction_is_found() {
        let (folder, whole) = log();
        let path = folder.path().join("log");
        let check = |log: &[u8]| {
            fs::write(&path, log).unwrap();
            is_damaged(&path).unwrap()
        };
        assert!(!is_damaged(&folder.path().join("missing")).unwrap());
        assert!(!check(&whole));
        let frame = FRAME_HEADER_BYTES + 4096;
        let frames: Vec<&[u8]> = whole[HEADER_BYTES..].chunks_exact(frame).collect();
        let own = frames.iter().filter(|frame| frame[8..16] == whole[16..24]).count();
        assert!(own < frames.len(), "an older log remains behind");
        let ends = (0..own).filter(|number| word(frames[*number], 4) != 0);
        let last = ends.rev().nth(1).unwrap() + 1;
        for place in (0..whole.len()).step_by(97).chain(0..HEADER_BYTES) {
            let mut log = whole.clone();
            log[place] ^= 0x10;
            let number = place.checked_sub(HEADER_BYTES).map(|place| place / frame);
            assert_eq!(check(&log), number.is_none_or(|number| number < last), "byte {place}");
        }
        // A crash cuts the log anywhere.
        for length in (0..whole.len()).step_by(501) {
            assert!(!check(&whole[..length]), "{length} bytes");
        }
    }
}
