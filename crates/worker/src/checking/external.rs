//! Names the faulty weights file if that is why a model fails to load. ONNX Runtime's message does
//! not always name it.

use std::{fs::File, path::Path};

use onnxd_proto::domain::{Refusal, RefusalKind};

use crate::artifacts::{external::external_files, model_in};

/// Adds the faulty file to the refusal, if weights of the version in `dir` are missing or misplaced.
pub(crate) fn explain(dir: &Path, refusal: Refusal) -> Refusal {
    let Ok(Some((file, path))) = model_in(dir) else { return refusal };
    let Ok(model) = File::open(path) else { return refusal };
    match external_files(dir, &file, &model) {
        Ok(_) => refusal,
        Err(fault) => RefusalKind::Contract.because(format!("{fault} ({refusal})")),
    }
}
