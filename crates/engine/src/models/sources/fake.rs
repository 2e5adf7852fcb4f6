//! A lister for tests that finds models and their weights by name.

use std::{fs, path::Path, sync::Arc};

use onnxd_proto::domain::{FileStamp, ListedModel, Listing, ModelChoice, Refusal, RefusalKind};

use crate::models::sources::{Sources, lister::Lister, tree::Tree};

/// Lists `model.onnx` or `onnx/model.onnx` with the weights in `model.onnx_data` next to it. Without
/// either, lists static embeddings.
#[derive(Debug)]
pub(crate) struct ByName;

impl ByName {
    /// Returns sources that use this lister.
    pub(crate) fn sources() -> Sources {
        Sources::with(Arc::new(Self))
    }
}

impl Lister for ByName {
    fn list(&self, tree: &Tree, choice: &ModelChoice) -> Result<Listing, Refusal> {
        let at = |path: &str| tree.path().join(path);
        let exists = |path: &&str| fs::symlink_metadata(at(path)).is_ok();
        let file = match choice {
            ModelChoice::File(file) => Some(file.as_str()),
            _ => ["model.onnx", "onnx/model.onnx"].into_iter().find(exists),
        };
        let Some(file) = file else {
            let is_static = exists(&"model.safetensors");
            return match is_static {
                true => Ok(Listing::default()),
                false => Err(RefusalKind::Contract.because("no model")),
            };
        };
        let stamp = |path: &Path| fs::metadata(path).map(|found| FileStamp::from(&found));
        let stamp = stamp(&at(file)).or_else(|_| stamp(tree.path()));
        let stamp = stamp.map_err(|error| RefusalKind::Internal.because(error.to_string()))?;
        let weights = format!("{file}_data");
        let external = if exists(&weights.as_str()) { vec![weights] } else { Vec::new() };
        let (file, reason) = (file.to_owned(), "its name".to_owned());
        let is_stated = *choice != ModelChoice::Unstated;
        let model = Some(ListedModel { file, is_stated, reason, stamp });
        Ok(Listing { model, external, ..Listing::default() })
    }
}
