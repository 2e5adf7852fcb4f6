//! Module folders for unit tests, with a configuration and tensors.

use std::{fs, path::Path};

use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;
use tempfile::TempDir;

/// A tensor's name, type, shape and bytes.
pub(super) type Given = (&'static str, Dtype, Vec<usize>, Vec<u8>);

/// Creates a tensor of `f32`.
pub(super) fn floats(name: &'static str, shape: &[usize], values: &[f32]) -> Given {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    (name, Dtype::F32, shape.to_vec(), bytes)
}

/// Creates a version whose folder has this configuration and these tensors.
pub(super) fn version(folder: &str, config: Option<&Value>, tensors: &[Given]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join(folder);
    fs::create_dir_all(&place).unwrap();
    if let Some(config) = config {
        fs::write(place.join("config.json"), config.to_string()).unwrap();
    }
    write(&place, tensors);
    dir
}

/// Writes the tensors to a module's file.
pub(super) fn write(place: &Path, tensors: &[Given]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    fs::write(place.join("model.safetensors"), file).unwrap();
}

/// Returns reproducible pseudorandom numbers between −1 and 1.
pub(super) fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
