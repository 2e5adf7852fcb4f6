//! Tests of listings on real directories.

use std::{fs, os::unix::fs::symlink};

use super::*;
use crate::artifacts::graph::tests::{external, model, node};

struct Source(tempfile::TempDir);

impl Source {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let source = Self(tempfile::tempdir().unwrap());
        for (name, bytes) in files {
            let path = source.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        source
    }

    fn list(&self, choice: &ModelChoice) -> Result<Listing, String> {
        list(self.0.path(), choice).map_err(|refusal| refusal.message)
    }

    fn chosen(&self, choice: &ModelChoice) -> Result<String, String> {
        Ok(self.list(choice)?.model.map(|model| model.file).unwrap_or_default())
    }
}

const STATIC: &[u8] = br#"[{"type": "sentence_transformers.models.StaticEmbedding"}]"#;

#[test]
fn external_data_is_listed_under_any_name() {
    let graph = model(&[
        external(5, "model.onnx_data", 0, 4),
        node(external(5, "Constant_7_attr__value", 0, 2)),
        external(5, "onnx__MatMul_1", 0, 4),
    ]);
    let source = Source::new(&[
        ("onnx/model.onnx", &graph),
        ("onnx/model.onnx_data", b"1234"),
        ("onnx/Constant_7_attr__value", b"12"),
        ("onnx/onnx__MatMul_1", b"1234"),
        ("onnx/other.data", b""),
    ]);
    let listing = source.list(&ModelChoice::Unstated).unwrap();
    let expected = ["onnx/Constant_7_attr__value", "onnx/model.onnx_data", "onnx/onnx__MatMul_1"];
    assert_eq!(listing.external, expected);
    let file = File::open(source.0.path().join("onnx/model.onnx")).unwrap();
    let stamp = FileStamp::from(&file.metadata().unwrap());
    assert_eq!(listing.model.unwrap().stamp, stamp);
    fs::remove_file(source.0.path().join("onnx/onnx__MatMul_1")).unwrap();
    let message = source.list(&ModelChoice::Unstated).unwrap_err();
    assert!(message.contains("onnx/model.onnx needs onnx/onnx__MatMul_1"), "{message}");
}

#[test]
fn source_uri_overrides_onnxd_toml() {
    let source = Source::new(&[
        ("onnx/model.onnx", &model(&[])),
        ("onnx/model_O2.onnx", &model(&[])),
        ("onnx/model_fp16.onnx", &model(&[])),
        ("onnxd.toml", b"file = \"onnx/model_O2.onnx\"\nmax_tokens = 7\n"),
    ]);
    assert_eq!(source.chosen(&ModelChoice::Unstated).unwrap(), "onnx/model_O2.onnx");
    let variant = ModelChoice::variant("fp16").unwrap();
    assert_eq!(source.chosen(&variant).unwrap(), "onnx/model_fp16.onnx");
    for (text, reason) in [
        ("file = \"../m.onnx\"", "inside the source"),
        ("file = \"m.bin\"", "ends in .onnx"),
        ("file = \"onnx/m.onnx\"", "is missing; the source has onnx/model.onnx"),
        ("variant = \"no such\"", "must be a word"),
        ("variant = \"q4\"", "no model file of the variant \"q4\""),
        ("variant = \"fp16\"\nfile = \"m.onnx\"", "not both"),
        ("file = 3", "onnxd.toml"),
    ] {
        fs::write(source.0.path().join("onnxd.toml"), text).unwrap();
        let message = source.chosen(&ModelChoice::Unstated).unwrap_err();
        assert!(message.contains(reason), "{text}: {message}");
    }
}

#[test]
fn static_embeddings_need_no_graph() {
    let potion = (b"{\"model_type\": \"model2vec\"}".as_slice(), "config.json");
    for (settings, name) in [(STATIC, "modules.json"), potion] {
        for weights in ["model.safetensors", "0_StaticEmbedding/model.safetensors"] {
            let source =
                Source::new(&[(name, settings), (weights, b"x"), ("onnx/model.onnx", b"")]);
            let listing = source.list(&ModelChoice::Unstated).unwrap();
            assert_eq!((listing.model, listing.external), (None, vec![]), "{name} {weights}");
            let file = ModelChoice::file("onnx/model.onnx").unwrap();
            assert_eq!(source.chosen(&file).unwrap(), "onnx/model.onnx", "the file was requested");
        }
    }
    let message = Source::new(&[("modules.json", STATIC)]).chosen(&ModelChoice::Unstated);
    assert!(message.unwrap_err().contains("model.safetensors is missing"));
    // onnxd cannot run the weights of other kinds of models.
    let source = Source::new(&[("config.json", b"{}"), ("model.safetensors", b"x")]);
    let message = source.chosen(&ModelChoice::Unstated).unwrap_err();
    assert!(message.contains("neither model.onnx nor onnx/model.onnx"), "{message}");
}

#[test]
fn pointers_dangling_links_and_fifos_are_refused_by_name() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    let message = Source::new(&[("model.onnx", pointer)]).chosen(&ModelChoice::Unstated);
    assert!(message.unwrap_err().contains("model.onnx is a Git LFS pointer"));
    let source = Source::new(&[]);
    let path = source.0.path().join("model.onnx");
    symlink("gone", &path).unwrap();
    let message = source.chosen(&ModelChoice::Unstated).unwrap_err();
    assert!(message.contains("model.onnx is a link to gone, which is missing"), "{message}");
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let message = source.chosen(&ModelChoice::Unstated).unwrap_err();
    assert!(message.contains("model.onnx: not a regular file"), "{message}");
}

#[test]
fn tokenizer_in_another_folder_is_reported() {
    let source = Source::new(&[("onnx/model.onnx", &model(&[])), ("onnx/tokenizer.json", b"{}")]);
    let notes = source.list(&ModelChoice::Unstated).unwrap().notes;
    assert_eq!(notes, ["the tokenizer is onnx/tokenizer.json"]);
}

#[test]
fn directory_with_too_many_files_is_refused() {
    let source = Source::new(&[("model.onnx", &model(&[]))]);
    for number in 0..folder::ENTRIES_MAX {
        File::create(source.0.path().join(format!("{number}.npy"))).unwrap();
    }
    let message = source.list(&ModelChoice::Unstated).unwrap_err();
    assert!(message.contains("more than 10000 files"), "{message}");
}
