//! Selects the files of a version other than the model's own, by name: everything a model may need,
//! and nothing large that it does not need. Pure.

use onnxd_proto::domain::Checksums;

/// Suffixes of files taken from every folder down to [`DEPTH_MAX`].
const ENDINGS: [&str; 4] = [".json", ".txt", ".jinja", ".model"];
/// Files taken at the top level only.
const TOP: [&str; 2] = ["canary.jsonl", "onnxd.toml"];
/// The weights of a module or of static embeddings.
const WEIGHTS: &str = "model.safetensors";
/// The bundle of OpenSSF Model Signing.
pub(super) const BUNDLE: &str = "model.sig";
/// Files that prove others unchanged.
pub(in crate::models) const PROOFS: [&str; 3] = [Checksums::FILE, Checksums::SIGNATURE, BUNDLE];
/// Maximum folder depth, reached by the modules of a router.
const DEPTH_MAX: usize = 2;
/// Ignored folders: other formats of the model, and a file system's own folder.
const IGNORED_FOLDERS: [&str; 4] = ["openvino", "coreml", "tf", "lost+found"];

/// Maximum bytes of a file selected by its suffix. The largest tokenizers are 40 MB, so a much
/// larger file is something else.
pub(super) const NAMED_BYTES_MAX: u64 = 256 << 20;

/// Returns whether the name of the file at `path` selects it. `has_graph` means that the version has a
/// model file, which holds the weights of a transformer.
pub(in crate::models) fn includes(path: &str, has_graph: bool) -> bool {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    if !is_in_reach(path) {
        return false;
    }
    if name == WEIGHTS {
        return if folder.is_empty() { !has_graph } else { is_module(folder) };
    }
    ENDINGS.iter().any(|ending| name.ends_with(ending)) || folder.is_empty() && TOP.contains(&name)
}

/// Returns whether the file proves that others are unchanged. It is read with them, but is not part of
/// a version.
pub(super) fn is_proof(path: &str) -> bool {
    PROOFS.contains(&path)
}

/// Returns whether a version without this file runs, but with other output: modules, their weights and
/// prompts.
pub(in crate::models) fn changes_output(path: &str) -> bool {
    match path.rsplit_once('/') {
        None => ["modules.json", "config_sentence_transformers.json"].contains(&path),
        Some((folder, name)) => {
            ["config.json", WEIGHTS].contains(&name) && is_module(folder) && includes(path, true)
        }
    }
}

/// Returns whether a model file of this name is chosen by default.
pub(super) fn is_usual(path: &str) -> bool {
    ["model.onnx", "onnx/model.onnx"].contains(&path)
}

/// Returns whether files in the folder at `path` may be selected.
pub(super) fn descends_into(path: &str) -> bool {
    path.split('/').count() <= DEPTH_MAX && is_in_reach(&format!("{path}/x"))
}

/// Returns whether [`NAMED_BYTES_MAX`] applies to a file. Weights may be larger.
pub(super) fn is_small(path: &str) -> bool {
    !path.ends_with(WEIGHTS)
}

/// Returns whether no folder on the path is ignored and a manifest can hold the name.
fn is_in_reach(path: &str) -> bool {
    let folders = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let is_ignored =
        |folder: &str| IGNORED_FOLDERS.contains(&folder) || folder.starts_with("checkpoint-");
    let folders: Vec<&str> = folders.split('/').filter(|folder| !folder.is_empty()).collect();
    folders.len() <= DEPTH_MAX
        && !path.split('/').any(|part| part.starts_with('.') || part.is_empty())
        && !folders.into_iter().any(is_ignored)
        && !path.contains(char::is_control)
}

/// Returns whether weights in this folder belong to a module that onnxd runs itself. The weights of a
/// transformer are in the graph.
fn is_module(folder: &str) -> bool {
    let name = folder.rsplit('/').next().unwrap_or(folder);
    name != "onnx" && !name.ends_with("Transformer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_a_model_may_need_are_selected_and_others_are_not() {
        for path in [
            "config.json",
            "vocab.txt",
            "merges.txt",
            "sentencepiece.bpe.model",
            "chat_template.jinja",
            "onnxd.toml",
            "canary.jsonl",
            "onnx/tokenizer.json",
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "query_0_StaticEmbedding/model.safetensors",
            "document_0_Router/1_Pooling/config.json",
            "0_StaticEmbedding/model.safetensors",
        ] {
            assert!(includes(path, true), "{path}");
        }
        for path in [
            "README.md",
            "pytorch_model.bin",
            "model.safetensors",
            "0_Transformer/model.safetensors",
            "0_MLMTransformer/model.safetensors",
            "onnx/model_fp16.onnx",
            "onnx/model.onnx_data",
            "openvino/openvino_model.json",
            ".cache/huggingface/x.json",
            "1_Pooling/onnxd.toml",
            "a/b/c/config.json",
            "checkpoint-500/trainer_state.json",
            "a\nb.json",
        ] {
            assert!(!includes(path, true), "{path}");
        }
        assert!(includes("model.safetensors", false), "static embeddings have no graph");
    }

    #[test]
    fn folders_are_searched_down_to_the_maximum_depth() {
        for folder in ["onnx", "1_Pooling", "router/1_Pooling"] {
            assert!(descends_into(folder), "{folder}");
        }
        for folder in ["a/b/c", ".git", "openvino", "lost+found", "a/.git"] {
            assert!(!descends_into(folder), "{folder}");
        }
    }
}
