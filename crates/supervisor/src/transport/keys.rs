//! API keys: the file, the headers that carry a key, and the comparison. [`crate::transport::edge`] checks
//! HTTP requests with it, and the gRPC server its calls.
//!
//! Only digests are kept. They have equal lengths and all are compared in constant time, so response times
//! reveal nothing about a key.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use axum::http::{HeaderMap, HeaderValue, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::transport::secret_file::{self, FileError};

/// Maximum size of the file in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Maximum keys in the file. Every request is compared with all of them.
const KEYS_MAX: usize = 1000;
/// Minimum length of a key in bytes. A shorter one could be guessed.
const KEY_BYTES_MIN: usize = 8;

type KeyDigest = [u8; 32];

/// The accepted keys.
pub(crate) struct Keys {
    file: PathBuf,
    allowed: RwLock<Arc<[KeyDigest]>>,
}

/// Why a file of keys is invalid. Names the line, never its content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("line {line}: expected a key of at least {KEY_BYTES_MIN} characters")]
    Short { line: usize },
    #[error("line {line}: expected one key of printable ASCII characters without spaces")]
    Characters { line: usize },
    #[error("line {line}: at most {KEYS_MAX} keys are allowed")]
    Many { line: usize },
    #[error("the file contains no key, so every request would be refused")]
    None,
}

impl Keys {
    /// Loads a file of keys.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not a valid key.
    pub(crate) fn load(file: PathBuf) -> Result<Self, KeysError> {
        let allowed = RwLock::new(read(&file)?);
        Ok(Self { file, allowed })
    }

    /// Reloads the file.
    ///
    /// # Errors
    /// As for [`Keys::load`]. The previous keys stay in effect then.
    pub(crate) fn reload(&self) -> Result<(), KeysError> {
        let allowed = read(&self.file)?;
        tracing::info!(keys = allowed.len(), "reloaded API keys");
        *self.allowed.write().unwrap_or_else(PoisonError::into_inner) = allowed;
        Ok(())
    }

    /// Returns whether the headers carry an accepted key: `authorization: Bearer KEY` or
    /// `x-api-key: KEY`.
    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        let allowed = Arc::clone(&self.allowed.read().unwrap_or_else(PoisonError::into_inner));
        let shown = [
            headers.get(header::AUTHORIZATION).and_then(bearer),
            headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii()),
        ];
        let known = |key: &[u8]| {
            let key = digest(key);
            // Compare with every key, so that the time does not reveal which one matched.
            let any = |found: Choice, other: &KeyDigest| found | other.ct_eq(&key);
            bool::from(allowed.iter().fold(Choice::from(0), any))
        };
        shown.into_iter().flatten().any(known)
    }
}

/// Omits the digests: a weak key could be guessed from them.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Returns the credentials of the `Bearer` scheme (RFC 6750), whose case does not matter.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, key) = value.as_bytes().split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

fn digest(key: &[u8]) -> KeyDigest {
    Sha256::digest(key).into()
}

fn read(file: &Path) -> Result<Arc<[KeyDigest]>, KeysError> {
    parse(&secret_file::read(file, FILE_BYTES_MAX)?)
}

pub(crate) fn parse(text: &[u8]) -> Result<Arc<[KeyDigest]>, KeysError> {
    let mut keys = Vec::new();
    for (line, key) in (1..).zip(text.split(|&byte| byte == b'\n')) {
        let key = key.trim_ascii();
        if key.is_empty() || key.starts_with(b"#") {
            continue;
        }
        // Not every client and proxy can send other characters in headers.
        if !key.iter().all(u8::is_ascii_graphic) {
            return Err(KeysError::Characters { line });
        }
        if key.len() < KEY_BYTES_MIN {
            return Err(KeysError::Short { line });
        }
        if keys.len() == KEYS_MAX {
            return Err(KeysError::Many { line });
        }
        keys.push(digest(key));
    }
    if keys.is_empty() { Err(KeysError::None) } else { Ok(keys.into()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn keys(text: &str) -> Keys {
        Keys { file: PathBuf::new(), allowed: RwLock::new(parse(text.as_bytes()).unwrap()) }
    }

    fn allows(keys: &Keys, headers: &[(&'static str, &str)]) -> bool {
        let header = |&(name, value): &(&'static str, &str)| {
            (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        keys.allow(&headers.iter().map(header).collect())
    }

    #[test]
    fn only_keys_of_the_file_are_accepted_in_either_header() {
        let keys = keys("# who may\n\n first-key-of-two\r\n#second-is-no-key\nother+key/==\n");
        for key in ["first-key-of-two", "other+key/=="] {
            for scheme in ["Bearer", "bearer", "BEARER", "Bearer  "] {
                assert!(
                    allows(&keys, &[("authorization", &format!("{scheme} {key}"))]),
                    "{scheme}"
                );
            }
            assert!(allows(&keys, &[("x-api-key", key)]));
            // A proxy's credentials do not interfere.
            assert!(allows(&keys, &[("authorization", "Basic eDp5"), ("x-api-key", key)]));
            assert!(!allows(&keys, &[("authorization", key)]));
            assert!(!allows(&keys, &[("authorization", &format!("Basic {key}"))]));
            assert!(!allows(&keys, &[("authorization", &format!("Bearer{key}"))]));
            assert!(!allows(&keys, &[("x-api-key", &format!("{key}x"))]));
            assert!(!allows(&keys, &[("x-api-key", &key[1..])]));
            assert!(!allows(&keys, &[("cookie", key)]));
        }
        for wrong in ["", "# who may", "second-is-no-key", "#second-is-no-key"] {
            assert!(!allows(&keys, &[("x-api-key", wrong)]), "{wrong:?}");
            assert!(!allows(&keys, &[("authorization", &format!("Bearer {wrong}"))]), "{wrong:?}");
        }
        assert!(!allows(&keys, &[]));
    }

    #[test]
    fn invalid_line_is_named_but_not_shown() {
        for (text, part) in [
            ("", "contains no key"),
            ("# only this\n\n", "contains no key"),
            ("long-enough\n\nshort77\n", "line 3: expected a key of at least 8"),
            ("two secret-words\n", "line 1: expected one key"),
            ("# x\nsecret\u{7f}secret\n", "line 2: expected one key"),
            ("sécret-sécret\n", "line 1: expected one key"),
        ] {
            let message = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(part), "{text:?}: {message}");
            assert!(!message.contains("cret") && !message.contains("short77"), "{message}");
        }
        let many =
            |count: usize| (0..count).map(|n| format!("key-number-{n}\n")).collect::<String>();
        assert_eq!(parse(many(KEYS_MAX).as_bytes()).unwrap().len(), KEYS_MAX);
        let message = parse(many(KEYS_MAX + 1).as_bytes()).unwrap_err().to_string();
        assert!(message.contains("line 1001"), "{message}");
    }

    #[test]
    fn invalid_file_keeps_the_previous_keys() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keys");
        fs::write(&file, "the-first-key").unwrap();
        let keys = Keys::load(file.clone()).unwrap();
        for bad in ["short", "", &"x".repeat(64 * 1024 + 1)] {
            fs::write(&file, bad).unwrap();
            keys.reload().unwrap_err();
            assert!(allows(&keys, &[("x-api-key", "the-first-key")]));
        }
        fs::write(&file, "the-second-key").unwrap();
        keys.reload().unwrap();
        assert!(!allows(&keys, &[("x-api-key", "the-first-key")]));
        assert!(allows(&keys, &[("x-api-key", "the-second-key")]));
        assert!(!format!("{keys:?}").contains("key-"), "{keys:?}");
        fs::remove_file(&file).unwrap();
        keys.reload().unwrap_err();
        assert!(allows(&keys, &[("x-api-key", "the-second-key")]));
    }
}
