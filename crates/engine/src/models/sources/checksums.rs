//! Compares files with a source's optional `SHA256SUMS`. `proto` parses it.

use onnxd_proto::domain::Checksums;

use crate::models::sources::source::FetchedFile;

/// Returns a message about the first file that has no entry or differs from it, or whose entry
/// `is_missing`.
pub(super) fn fault(
    checksums: &Checksums,
    files: &[FetchedFile],
    is_missing: impl Fn(&str) -> bool,
) -> Option<String> {
    let sums = Checksums::FILE;
    // A file without an entry could be half-uploaded without a trace.
    let is_listed = |path: &str| checksums.iter().any(|(listed, _)| listed == path);
    if let Some(file) = files.iter().find(|file| !is_listed(&file.path)) {
        return Some(format!(
            "{} is not listed in {sums}; list all files: find . -type f ! -name {sums} -exec sha256sum {{}} + > {sums}",
            file.path
        ));
    }
    checksums.iter().find_map(|(path, digest)| {
        match files.iter().find(|file| file.path == path) {
            Some(file) if file.sha256 == digest => None,
            Some(file) => Some(format!(
                "{path} does not match {sums}: its SHA-256 is {}, expected {digest}; upload the file again",
                file.sha256
            )),
            None => is_missing(path).then(|| format!("{path} is listed in {sums} but missing")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn staged(path: &str, digit: char) -> FetchedFile {
        let sha256 = digit.to_string().repeat(64);
        FetchedFile { path: path.to_owned(), bytes: 1, sha256 }
    }

    #[test]
    fn only_files_of_the_version_can_be_faults() {
        let text = format!("{}  model.onnx\n{}  README.md\n", "a".repeat(64), "c".repeat(64));
        let checksums = Checksums::parse(&text).unwrap();
        let missing = |path: &str| path == "model.onnx";
        assert_eq!(fault(&checksums, &[staged("model.onnx", 'a')], missing), None);
        let message = fault(&checksums, &[staged("model.onnx", 'b')], missing).unwrap();
        assert!(message.contains("does not match"), "{message}");
        let message = fault(&checksums, &[], missing).unwrap();
        assert!(message.contains("missing"), "{message}");
        let unlisted = [staged("model.onnx", 'a'), staged("model.onnx_data", 'd')];
        let message = fault(&checksums, &unlisted, missing).unwrap();
        assert!(message.contains("model.onnx_data is not listed"), "{message}");
    }
}
