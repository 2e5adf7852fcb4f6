//! Turns a `SHA256SUMS` into a snapshot. Shared by web servers and buckets.

use onnxd_proto::domain::{
    Checksums,
    fetch::{FetchError, FetchErrorKind, Pin},
};

use crate::{
    digest::{self, Digest},
    sources::{
        answer::Validators,
        source::{File, Snapshot},
    },
};

/// What precedes the digest in the id of a snapshot.
pub(super) const ID_PREFIX: &str = "sha256:";

/// Returns the snapshot that a `SHA256SUMS` from `from` describes. Its id is the digest of its bytes.
pub(super) fn snapshot(
    bytes: &[u8],
    from: &str,
    validators: Validators,
) -> Result<Snapshot, FetchError> {
    let malformed = |reason: String| FetchErrorKind::Malformed.because(format!("{from}: {reason}"));
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8".to_owned()))?;
    let checksums = Checksums::parse(text).map_err(|error| malformed(error.to_string()))?;
    let files = checksums.iter().map(|(path, sha256)| File {
        path: path.to_owned(),
        digest: Some(Digest::Sha256(sha256.to_owned())),
        ..File::default()
    });
    Ok(Snapshot {
        id: format!("{ID_PREFIX}{}", digest::sha256(bytes)),
        pin: Pin::Checksums,
        files: files.collect(),
        archives: Vec::new(),
        notes: Vec::new(),
        validators,
    })
}

/// Returns what the `SHA256SUMS` of a snapshot cannot list: itself, and its signature with the length
/// and identity that the server states.
pub(super) fn signature(
    snapshot: &Snapshot,
    bytes: Option<u64>,
    identity: Option<String>,
) -> Vec<File> {
    let digest = snapshot.id.strip_prefix(ID_PREFIX).map(str::to_owned).map(Digest::Sha256);
    let sums = File { path: Checksums::FILE.to_owned(), digest, ..File::default() };
    let path = Checksums::SIGNATURE.to_owned();
    vec![sums, File { path, bytes, digest: None, identity }]
}

/// Returns the error for a source without a `SHA256SUMS`.
pub(super) fn missing(from: &str) -> String {
    format!(
        "{from} does not exist: without it, a running upload looks like a finished one. In the \
         model's directory, run `find . -type f ! -name SHA256SUMS -exec sha256sum {{}} + > \
         SHA256SUMS` and upload that file last"
    )
}

/// Returns the error for a file that is listed but does not exist.
pub(super) fn listed_but_missing(path: &str) -> FetchError {
    let message =
        format!("{path} is listed in {} but missing; is an upload running?", Checksums::FILE);
    FetchErrorKind::Incomplete.because(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_comes_with_the_file_that_it_signs() {
        let sums = format!("{}  model.onnx\n", "a".repeat(64));
        let found = snapshot(sums.as_bytes(), "x", Validators::default()).unwrap();
        let files = signature(&found, Some(300), Some("etag".to_owned()));
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["SHA256SUMS", "SHA256SUMS.minisig"]);
        assert_eq!(files[0].digest, Some(Digest::Sha256(digest::sha256(sums.as_bytes()))));
        assert_eq!(files[1].identity.as_deref(), Some("etag"));
    }
}
