//! Recognizes weights that are still being copied: programs that reserve a file's space first leave
//! zeros at its end. Called after a check, by [`steps`](super::steps).

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use onnxd_proto::domain::{Drift, Refusal, RefusalKind};

/// A file that ends with fewer zero bytes is whole: a tensor may end so.
const ZEROS_MIN: u64 = 4096;
/// Bytes read at once, from the end.
const BLOCK: usize = 64 * 1024;
/// Bytes that are read of each file at most.
const READ_MAX: u64 = 16 << 20;
/// With a lower mean cosine, embeddings are far from those of the serving version. Retraining changes
/// them less, another model more.
pub(super) const FAR: f64 = 0.9;

/// A file that ends with zeros.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unfinished {
    file: String,
    zeros: u64,
}

/// Returns the file of a version that ends with most zeros, if one ends with many. Errors of reading
/// count as whole: the check has read the same files.
pub(super) fn find(folder: &Path, files: &[String]) -> Option<Unfinished> {
    let unfinished = |file: &String| {
        let zeros = zeros_at_end(&folder.join(file)).unwrap_or_default();
        (zeros >= ZEROS_MIN).then(|| Unfinished { file: file.clone(), zeros })
    };
    files.iter().filter_map(unfinished).max_by_key(|unfinished| unfinished.zeros)
}

/// Refuses an unfinished candidate whose embeddings are far from those of the serving version.
/// Otherwise, or with `force`, logs what is suspicious, because zeros or a distance alone prove nothing.
///
/// # Errors
/// The candidate is probably not whole.
pub(super) fn require_plausible(
    model: &str,
    unfinished: Option<&Unfinished>,
    drift: Option<&Drift>,
    force: bool,
) -> Result<(), Refusal> {
    let far = drift.map(|drift| drift.mean_cosine).filter(|mean_cosine| *mean_cosine < FAR);
    match (unfinished, far) {
        (Some(Unfinished { file, zeros }), Some(mean_cosine)) if !force => {
            let message = format!(
                "{file} ends with {zeros} or more zero bytes, as a file does that is still being copied, and the embeddings are far from those of the serving version (mean cosine {mean_cosine:.4}); wait for the copy to end, add SHA256SUMS to the source, or pass --force"
            );
            return Err(RefusalKind::Incomplete.because(message));
        }
        (Some(Unfinished { file, zeros }), _) => {
            let message = "a file of the candidate ends with zeros; if it was still being copied, update again";
            tracing::warn!(model, file, zeros, "{message}");
        }
        (None, Some(mean_cosine)) => {
            let message = "the candidate's embeddings are far from those of the serving version; --min-cosine refuses such candidates";
            tracing::warn!(model, mean_cosine, "{message}");
        }
        (None, None) => {}
    }
    Ok(())
}

/// Counts the zero bytes at the end of a file, up to [`READ_MAX`].
fn zeros_at_end(path: &Path) -> io::Result<u64> {
    let length = fs::metadata(path)?.len();
    if length < ZEROS_MIN {
        return Ok(0);
    }
    let file = File::open(path)?;
    let (mut end, mut buffer) = (length, vec![0; BLOCK]);
    while end > 0 && length - end < READ_MAX {
        let block = &mut buffer[..BLOCK.min(usize::try_from(end).unwrap_or(BLOCK))];
        let start = end - block.len() as u64;
        file.read_exact_at(block, start)?;
        if let Some(last) = block.iter().rposition(|byte| *byte != 0) {
            return Ok(length - (start + last as u64 + 1));
        }
        end = start;
    }
    Ok(length - end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_at_the_end_of_a_file_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        for (bytes, zeros) in [(0, 5000), (1, 4096), (1, 4095), (70_000, 200_000), (9000, 0)] {
            let content = [vec![7; bytes], vec![0; zeros]].concat();
            fs::write(&path, content).unwrap();
            assert_eq!(zeros_at_end(&path).unwrap(), zeros as u64, "{bytes} bytes, {zeros} zeros");
            let found = find(folder.path(), &["missing".to_owned(), "weights".to_owned()]);
            assert_eq!(found.is_some(), zeros >= 4096);
        }
    }

    #[test]
    fn only_zeros_and_distance_together_refuse() {
        let drift = |mean_cosine| Drift { min_cosine: mean_cosine, mean_cosine, probes: 16 };
        let zeros = Unfinished { file: "model.onnx_data".to_owned(), zeros: 9000 };
        assert!(require_plausible("m", Some(&zeros), Some(&drift(0.95)), false).is_ok());
        assert!(require_plausible("m", Some(&zeros), None, false).is_ok());
        assert!(require_plausible("m", None, Some(&drift(0.1)), false).is_ok());
        assert!(require_plausible("m", Some(&zeros), Some(&drift(0.5)), true).is_ok());
        let refusal = require_plausible("m", Some(&zeros), Some(&drift(0.5)), false).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Incomplete);
        assert!(refusal.message.contains("model.onnx_data ends with 9000"), "{refusal}");
    }
}
