//! Parses a source's `SHA256SUMS`, in the format of sha256sum(1). It tells a complete upload from
//! an incomplete or damaged one. Used for directories by the engine and for other servers by
//! `onnxd-fetch`, so that both accept the same files.

use std::collections::BTreeMap;

use thiserror::Error;

use super::is_inside;

/// The entries of a `SHA256SUMS`: SHA-256 in lowercase hex by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checksums(BTreeMap<String, String>);

/// Why a `SHA256SUMS` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChecksumsError {
    /// The file has no entry, as after an upload that stopped at once.
    #[error("no entries; create it with `sha256sum`")]
    Empty,
    /// A line that sha256sum(1) does not print.
    #[error("line {0}: expected `<SHA-256>  <path>`")]
    Line(usize),
    /// A path that leaves the source.
    #[error("line {0}: expected a path inside the source, without `..`")]
    Path(usize),
    /// A second entry for a path.
    #[error("line {0}: the path is listed twice")]
    Duplicate(usize),
}

impl Checksums {
    /// The file's name.
    pub const FILE: &str = "SHA256SUMS";
    /// The file with minisign's signature of it.
    pub const SIGNATURE: &str = "SHA256SUMS.minisig";
    /// Maximum length of the file in bytes; a longer one is refused.
    pub const BYTES_MAX: u64 = 1 << 20;

    /// Parses lines of `<digest>  <path>` or `<digest> *<path>`.
    ///
    /// # Errors
    /// Returns the first problem.
    pub fn parse(text: &str) -> Result<Self, ChecksumsError> {
        let mut entries = BTreeMap::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let (digest, path) = entry(line).ok_or(ChecksumsError::Line(number))?;
            // `sha256sum * > SHA256SUMS` lists the file itself, with the digest of an empty one, and
            // the signature of an earlier one.
            if [Self::FILE, Self::SIGNATURE].contains(&path) {
                continue;
            }
            if !is_inside(path) {
                return Err(ChecksumsError::Path(number));
            }
            if entries.insert(path.to_owned(), digest.to_ascii_lowercase()).is_some() {
                return Err(ChecksumsError::Duplicate(number));
            }
        }
        match entries.is_empty() {
            true => Err(ChecksumsError::Empty),
            false => Ok(Self(entries)),
        }
    }

    /// Returns paths and digests, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, digest)| (path.as_str(), digest.as_str()))
    }
}

fn entry(line: &str) -> Option<(&str, &str)> {
    let (digest, rest) = line.trim_end().split_once(' ')?;
    let path = rest.strip_prefix([' ', '*'])?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    let path = path.strip_prefix("./").unwrap_or(path);
    (is_digest && !path.is_empty()).then_some((digest, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256sum_output_is_parsed_and_malformed_lines_are_named() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let own = format!("{a}  SHA256SUMS\n{a}  SHA256SUMS.minisig\n");
        let text = format!("{b} *./onnx/x.data\n{a}  model.onnx\n{own}\n");
        let checksums = Checksums::parse(&text).unwrap();
        let entries: Vec<_> = checksums.iter().collect();
        assert_eq!(entries, [("model.onnx", &*a), ("onnx/x.data", &*"b".repeat(64))]);
        for wrong in ["abc  model.onnx", &a, &format!("{a}  "), &format!("\\{a}  a\\nb")] {
            let error = Checksums::parse(&format!("\n{wrong}")).unwrap_err();
            assert_eq!(error, ChecksumsError::Line(2), "{wrong}");
        }
    }

    #[test]
    fn empty_climbing_and_duplicate_entries_are_refused() {
        let digest = "a".repeat(64);
        for text in ["", "\n \n", &format!("{digest}  SHA256SUMS\n")] {
            assert_eq!(Checksums::parse(text), Err(ChecksumsError::Empty));
        }
        for path in ["/etc/passwd", "../a", "a/../../b", "a//b", "a/", "a/./b"] {
            let parsed = Checksums::parse(&format!("{digest}  {path}"));
            assert_eq!(parsed, Err(ChecksumsError::Path(1)), "{path}");
        }
        let twice = format!("{digest}  a\n{digest}  ./a\n");
        assert_eq!(Checksums::parse(&twice), Err(ChecksumsError::Duplicate(2)));
    }
}
