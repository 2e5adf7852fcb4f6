//! Which files of a source make a version, besides the model's own: everything that a model may need
//! and nothing large that it does not. Pure: decides by names.

/// Taken wherever they are, if they are not deeper than modules of modules.
const ENDINGS: [&str; 4] = [".json", ".txt", ".jinja", ".model"];
/// Taken at the top.
const TOP: [&str; 2] = ["canary.jsonl", "onnxd.toml"];
/// Weights of a module, or of static embeddings.
const WEIGHTS: &str = "model.safetensors";
/// Folders within folders: modules of a router.
const DEPTH_MAX: usize = 2;
/// Folders that hold other forms of the model, or that a file system has of its own.
const OTHERS: [&str; 4] = ["openvino", "coreml", "tf", "lost+found"];

/// Bytes of a file that is taken for its ending. A larger one is data of another kind; the largest
/// tokenizers have 40 MB.
pub(super) const NAMED_BYTES_MAX: u64 = 256 << 20;

/// Whether the file at `path` is taken by its name; `has_graph` says whether the version has a model
/// file, which holds the weights of a transformer.
pub(super) fn takes(path: &str, has_graph: bool) -> bool {
    let (folder, name) = path.rsplit_once('/').map_or(("", path), |(folder, name)| (folder, name));
    if !is_in_reach(path) {
        return false;
    }
    if name == WEIGHTS {
        return if folder.is_empty() { !has_graph } else { is_module(folder) };
    }
    ENDINGS.iter().any(|ending| name.ends_with(ending)) || folder.is_empty() && TOP.contains(&name)
}

/// Whether a model file of this name is taken where none is chosen.
pub(super) fn is_usual(path: &str) -> bool {
    ["model.onnx", "onnx/model.onnx"].contains(&path)
}

/// Whether files of the folder at `path` may be taken.
pub(super) fn looks_into(path: &str) -> bool {
    path.split('/').count() <= DEPTH_MAX && is_in_reach(&format!("{path}/x"))
}

/// Whether a file is bounded by [`NAMED_BYTES_MAX`]: weights are not.
pub(super) fn is_small(path: &str) -> bool {
    !path.ends_with(WEIGHTS)
}

/// Whether the folders on the way are looked into, and the name is one for a manifest.
fn is_in_reach(path: &str) -> bool {
    let folders = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let is_other = |folder: &str| OTHERS.contains(&folder) || folder.starts_with("checkpoint-");
    let folders: Vec<&str> = folders.split('/').filter(|folder| !folder.is_empty()).collect();
    folders.len() <= DEPTH_MAX
        && !path.split('/').any(|part| part.starts_with('.') || part.is_empty())
        && !folders.into_iter().any(is_other)
        && !path.contains(char::is_control)
}

/// Whether weights in this folder are those of a module that onnxd runs itself. A transformer's are
/// in the graph.
fn is_module(folder: &str) -> bool {
    let name = folder.rsplit('/').next().unwrap_or(folder);
    name != "onnx" && !name.ends_with("Transformer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_model_may_need_is_taken_and_nothing_large_besides() {
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
            assert!(takes(path, true), "{path}");
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
            assert!(!takes(path, true), "{path}");
        }
        assert!(takes("model.safetensors", false), "static embeddings have no graph");
    }

    #[test]
    fn folders_are_looked_into_as_deep_as_files_are_taken() {
        for folder in ["onnx", "1_Pooling", "router/1_Pooling"] {
            assert!(looks_into(folder), "{folder}");
        }
        for folder in ["a/b/c", ".git", "openvino", "lost+found", "a/.git"] {
            assert!(!looks_into(folder), "{folder}");
        }
    }
}
