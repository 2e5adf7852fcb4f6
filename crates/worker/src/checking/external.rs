//! Says which file of weights is wrong, when that is why a model does not load: ONNX Runtime's
//! message does not always name it.

use std::{fs::File, path::Path};

use onnxd_proto::domain::{Refusal, RefusalKind};

use crate::artifacts::{external::external_files, model_in};

/// The refusal with the file, if the version in `dir` has weights that are not beside its model.
pub(crate) fn explain(dir: &Path, refusal: Refusal) -> Refusal {
    let Ok(Some((file, path))) = model_in(dir) else { return refusal };
    let Ok(model) = File::open(path) else { return refusal };
    match external_files(dir, &file, &model) {
        Ok(_) => refusal,
        Err(fault) => RefusalKind::Contract.because(format!("{fault} ({refusal})")),
    }
}
