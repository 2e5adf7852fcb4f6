//! Digests of files: SHA-256, and Git's id of a blob, which the hub states for small files.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// An expected digest, in lowercase hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Digest {
    /// SHA-256 of the content.
    Sha256(String),
    /// SHA-1 of Git's header and the content.
    GitBlob(String),
}

impl Digest {
    /// Parses the digest in an ETag of the hub: SHA-256 of a file in LFS, or Git's id of another.
    pub(crate) fn of_etag(etag: &str) -> Option<Self> {
        let text = etag.trim_start_matches("W/").trim_matches('"');
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match text.len() {
            64 if is_hex => Some(Self::Sha256(text.to_ascii_lowercase())),
            40 if is_hex => Some(Self::GitBlob(text.to_ascii_lowercase())),
            _ => None,
        }
    }

    /// Returns the SHA-256, if it is one.
    pub(crate) fn sha256(&self) -> Option<&str> {
        match self {
            Self::Sha256(hex) => Some(hex),
            Self::GitBlob(_) => None,
        }
    }
}

/// Returns whether a file has the expected digest. Calls `tick` now and then.
pub(crate) async fn is_of_file(
    expected: &Digest,
    file: &mut File,
    tick: &dyn Fn(),
) -> io::Result<bool> {
    let (mut context, expected) = match expected {
        Digest::Sha256(hex) => (Context::new(&SHA256), hex),
        Digest::GitBlob(hex) => (git_blob(file.metadata()?.len()), hex),
    };
    add(&mut context, file, tick).await?;
    Ok(hex(context) == *expected)
}

/// Adds a whole file to a digest. Lets other tasks run meanwhile, and calls `tick` now and then.
pub(crate) async fn add(context: &mut Context, file: &mut File, tick: &dyn Fn()) -> io::Result<()> {
    file.rewind()?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        context.update(&chunk[..read]);
        tick();
        tokio::task::yield_now().await;
    }
}

/// Returns the SHA-256 of bytes in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    hex(context)
}

fn git_blob(length: u64) -> Context {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {length}\0").as_bytes());
    context
}

/// Returns a digest in lowercase hex.
pub(crate) fn hex(context: Context) -> String {
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn digests_are_those_of_sha256sum_and_git() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello\n").unwrap();
        // Printed by `sha256sum` and `git hash-object`.
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(super::sha256(b"hello\n"), sha256);
        for etag in [format!("\"{sha256}\""), format!("W/\"{git}\"")] {
            let digest = Digest::of_etag(&etag).unwrap();
            assert!(is_of_file(&digest, &mut file, &|| {}).await.unwrap(), "{etag}");
        }
        let other = Digest::GitBlob("0".repeat(40));
        assert!(!is_of_file(&other, &mut file, &|| {}).await.unwrap());
        assert_eq!(Digest::of_etag("\"abc-2\""), None);
    }
}
