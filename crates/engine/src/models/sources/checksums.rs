//! Parses and applies a source's optional `SHA256SUMS`, in the format of sha256sum(1). It tells a
//! complete upload from an incomplete or damaged one.

use crate::models::sources::FetchedFile;

/// The file's name.
pub(super) const FILE: &str = "SHA256SUMS";
/// Maximum length of the file in bytes; a longer one is refused.
pub(super) const BYTES_MAX: u64 = 1 << 20;

/// The entries: the digest in lowercase hex, and the path.
#[derive(Debug, Default)]
pub struct Checksums(Vec<(String, String)>);

impl Checksums {
    /// Parses lines of `<digest>  <path>` or `<digest> *<path>`.
    ///
    /// # Errors
    /// The number of the first malformed line.
    pub fn parse(text: &str) -> Result<Self, usize> {
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        lines.map(|(number, line)| entry(line).ok_or(number)).collect::<Result<_, _>>().map(Self)
    }

    /// Returns a message about the first file that differs from its entry, or whose entry
    /// `is_missing`.
    pub(super) fn fault(
        &self,
        files: &[FetchedFile],
        is_missing: impl Fn(&str) -> bool,
    ) -> Option<String> {
        self.0.iter().find_map(|(digest, path)| {
            match files.iter().find(|file| file.path == *path) {
                Some(file) if file.sha256 == *digest => None,
                Some(file) => Some(format!(
                    "{path} does not match {FILE}: its SHA-256 is {}, expected {digest}; upload the file again",
                    file.sha256
                )),
                None => is_missing(path).then(|| format!("{path} is listed in {FILE} but missing")),
            }
        })
    }
}

fn entry(line: &str) -> Option<(String, String)> {
    let (digest, rest) = line.trim_end().split_once(' ')?;
    let path = rest.strip_prefix([' ', '*'])?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    let path = path.strip_prefix("./").unwrap_or(path);
    (is_digest && !path.is_empty()).then(|| (digest.to_ascii_lowercase(), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(path: &str, digit: char) -> FetchedFile {
        let sha256 = digit.to_string().repeat(64);
        FetchedFile { path: path.to_owned(), bytes: 1, sha256 }
    }

    #[test]
    fn sha256sum_output_is_parsed_and_malformed_lines_are_named() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let text = format!("{a}  model.onnx\n{b} *./onnx/x.data\n\n");
        let Checksums(entries) = Checksums::parse(&text).unwrap();
        let expected = [(a, "model.onnx".to_owned()), ("b".repeat(64), "onnx/x.data".to_owned())];
        assert_eq!(entries, expected);
        for wrong in ["abc  model.onnx", &"a".repeat(64), &format!("{}  ", "a".repeat(64))] {
            assert_eq!(Checksums::parse(&format!("\n{wrong}")).unwrap_err(), 2, "{wrong}");
        }
    }

    #[test]
    fn only_files_of_the_version_can_be_faults() {
        let text = format!("{}  model.onnx\n{}  README.md\n", "a".repeat(64), "c".repeat(64));
        let checksums = Checksums::parse(&text).unwrap();
        let missing = |path: &str| path == "model.onnx";
        assert_eq!(checksums.fault(&[staged("model.onnx", 'a')], missing), None);
        let fault = checksums.fault(&[staged("model.onnx", 'b')], missing).unwrap();
        assert!(fault.contains("does not match"), "{fault}");
        let fault = checksums.fault(&[], missing).unwrap();
        assert!(fault.contains("missing"), "{fault}");
    }
}
