//! Choice among a source's model files. Made by the source's URI (`?file=`, `?variant=`) or by its
//! `onnxd.toml`; applied by `onnxd-worker list`.

use std::path::{Component, Path};

/// Suffix of model files.
pub const MODEL_SUFFIX: &str = ".onnx";
/// Maximum bytes of a path within a source.
pub const SOURCE_PATH_BYTES_MAX: usize = 1024;
/// Maximum bytes of a variant's name.
const VARIANT_BYTES_MAX: usize = 64;

/// A choice among a source's model files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModelChoice {
    /// As `onnxd.toml` says; otherwise `model.onnx`, `onnx/model.onnx` or the only file.
    #[default]
    Unstated,
    /// A specific file, relative to the source.
    File(String),
    /// The best file of this kind for the CPU, such as `int8`.
    Variant(String),
}

impl ModelChoice {
    /// Parses the path of a model file.
    ///
    /// # Errors
    /// Returns the reason if the path is not a model file inside a source.
    pub fn file(path: &str) -> Result<Self, &'static str> {
        if !path.ends_with(MODEL_SUFFIX) {
            return Err("`file` must name a file that ends in .onnx");
        }
        match is_inside(path) {
            true => Ok(Self::File(path.to_owned())),
            false => Err("`file` must be a path inside the source, such as onnx/model_fp16.onnx"),
        }
    }

    /// Parses the name of a variant.
    ///
    /// # Errors
    /// Returns the reason if the name is invalid.
    pub fn variant(name: &str) -> Result<Self, &'static str> {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        match is_plain && (1..=VARIANT_BYTES_MAX).contains(&name.len()) {
            true => Ok(Self::Variant(name.to_owned())),
            false => Err("`variant` must be a word such as fp16, int8 or O2"),
        }
    }
}

/// Returns whether a path stays inside a source: relative, of limited length, without `.`, `..`,
/// empty parts or control characters.
pub fn is_inside(path: &str) -> bool {
    let is_plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let parts = path.split('/').all(|part| !part.is_empty() && part != ".");
    is_plain && parts && path.len() <= SOURCE_PATH_BYTES_MAX && !path.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_must_be_an_onnx_path_inside_the_source() {
        for path in ["model.onnx", "onnx/model_int8.onnx", "a b/c.onnx"] {
            assert_eq!(ModelChoice::file(path), Ok(ModelChoice::File(path.to_owned())));
        }
        let long = format!("{}.onnx", "a".repeat(SOURCE_PATH_BYTES_MAX));
        let invalid = ["", "model.bin", "/m.onnx", "../m.onnx", "a/../m.onnx", "a//m.onnx"];
        for path in invalid.into_iter().chain(["./m.onnx", "a/./m.onnx", "a\nb.onnx", &long]) {
            assert!(ModelChoice::file(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_variant_must_be_one_word() {
        assert!(ModelChoice::variant("qint8_avx512_vnni").is_ok());
        for name in ["", "../x", "a b", "int8/", &"a".repeat(65)] {
            assert!(ModelChoice::variant(name).is_err(), "{name}");
        }
    }
}
