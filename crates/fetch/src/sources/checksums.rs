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
        id: format!("sha256:{}", digest::sha256(bytes)),
        pin: Pin::Checksums,
        files: files.collect(),
        archives: Vec::new(),
        notes: Vec::new(),
        validators,
    })
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
