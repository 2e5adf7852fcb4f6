//! Broken variants of the model directories. Each is refused, and the reason names the file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use e2e::{
    admin::Refusal,
    expected::{Directory, names, root},
    home::Home,
    server::Server,
};
use serde_json::Value;

use crate::assert_none;

/// A change to one file of a copied directory.
#[derive(Clone, Copy)]
enum Edit {
    /// Removes the file.
    Remove,
    /// Truncates the file to its first half.
    Halve,
    /// Replaces the file with one of another directory.
    Take(&'static str, &'static str),
    /// Replaces the contents.
    Write(&'static str),
    /// Sets a member of a JSON file, by JSON pointer.
    Set(&'static str, &'static str),
}

impl Edit {
    fn apply(self, path: &Path) {
        match self {
            Self::Remove => fs::remove_file(path).expect("a file"),
            Self::Halve => {
                let bytes = fs::read(path).expect("a file");
                fs::write(path, &bytes[..bytes.len() / 2]).expect("a file");
            }
            Self::Take(directory, file) => {
                fs::copy(root().join(directory).join(file), path).expect("a file");
            }
            Self::Write(text) => fs::write(path, text).expect("a file"),
            Self::Set(pointer, value) => {
                let mut json: Value =
                    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON");
                *json.pointer_mut(pointer).expect("a member") =
                    serde_json::from_str(value).expect("JSON");
                fs::write(path, json.to_string()).expect("a file");
            }
        }
    }
}

/// A directory, edits of its files, and words that the reason must contain. `|` separates
/// alternatives. The first word names the file.
type BrokenCase = (&'static str, &'static [(&'static str, Edit)], &'static [&'static str]);

const GRAPH: &str = "onnx/model.onnx";

const BROKEN: [BrokenCase; 30] = [
    // Damaged files.
    ("mpnet-embed", &[(GRAPH, Edit::Halve)], &[GRAPH]),
    ("mpnet-embed", &[("config.json", Edit::Write("{"))], &["config.json"]),
    ("mpnet-embed", &[("modules.json", Edit::Write("[1]"))], &["modules.json"]),
    ("mpnet-embed", &[("tokenizer.json", Edit::Halve)], &["tokenizer.json"]),
    ("labse-like", &[("2_Dense/model.safetensors", Edit::Halve)], &["2_Dense/model.safetensors"]),
    ("static-embedding", &[("model.safetensors", Edit::Halve)], &["model.safetensors"]),
    ("potion", &[("model.safetensors", Edit::Halve)], &["model.safetensors"]),
    // Wrong heads.
    ("pooling-max", &[(GRAPH, Edit::Take("token-classifier", GRAPH))], &[GRAPH, "label|logits"]),
    ("pooling-max", &[(GRAPH, Edit::Take("splade", GRAPH))], &[GRAPH, "vocabulary|logits"]),
    ("pooling-max", &[(GRAPH, Edit::Take("cross-encoder-new", GRAPH))], &[GRAPH, "logits|one"]),
    ("splade", &[(GRAPH, Edit::Take("pooling-max", GRAPH))], &[GRAPH, "vocabulary|600"]),
    (
        "classifier-regression",
        &[(GRAPH, Edit::Take("pooling-max", GRAPH))],
        &[GRAPH, "logits|last_hidden_state"],
    ),
    (
        "cross-encoder-new",
        &[(GRAPH, Edit::Take("classifier-multilabel", GRAPH))],
        &["model.onnx|config.json", "5"],
    ),
    ("token-classifier", &[(GRAPH, Edit::Take("pooling-max", GRAPH))], &["config.json", "32"]),
    (
        "zero-shot-nli",
        &[(GRAPH, Edit::Take("classifier-multilabel", GRAPH))],
        &["config.json", "5", "3"],
    ),
    (
        "qwen3-reranker",
        &[(GRAPH, Edit::Take("qwen3-embedding", GRAPH))],
        &[GRAPH, "logits|last_hidden_state"],
    ),
    // Labels or tokens that the graph lacks.
    (
        "token-classifier",
        &[("config.json", Edit::Set("/id2label", r#"{"0": "O", "1": "B-PER"}"#))],
        &["config.json|id2label", "2", "5"],
    ),
    (
        "qwen3-reranker",
        &[("1_LogitScore/config.json", Edit::Set("/true_token_id", "999999"))],
        &["1_LogitScore/config.json", "999999"],
    ),
    // A Dense module of another size.
    (
        "labse-like",
        &[("2_Dense/config.json", Edit::Set("/in_features", "48"))],
        &["2_Dense", "48", "32"],
    ),
    (
        "labse-like",
        &[
            ("2_Dense/config.json", Edit::Take("embeddinggemma", "3_Dense/config.json")),
            (
                "2_Dense/model.safetensors",
                Edit::Take("embeddinggemma", "3_Dense/model.safetensors"),
            ),
        ],
        &["2_Dense", "32"],
    ),
    (
        "embeddinggemma",
        &[
            ("3_Dense/config.json", Edit::Take("embeddinggemma", "2_Dense/config.json")),
            (
                "3_Dense/model.safetensors",
                Edit::Take("embeddinggemma", "2_Dense/model.safetensors"),
            ),
        ],
        &["3_Dense"],
    ),
    (
        "labse-like",
        &[(
            "2_Dense/config.json",
            Edit::Set("/activation_function", r#""torch.nn.modules.activation.Strange""#),
        )],
        &["2_Dense/config.json", "strange"],
    ),
    // Tokenizers of other models.
    (
        "mpnet-embed",
        &[("tokenizer.json", Edit::Take("qwen3-embedding", "tokenizer.json"))],
        &["tokenizer"],
    ),
    (
        "static-embedding",
        &[("tokenizer.json", Edit::Take("qwen3-reranker", "tokenizer.json"))],
        &["tokenizer"],
    ),
    (
        "potion",
        &[("tokenizer.json", Edit::Take("qwen3-reranker", "tokenizer.json"))],
        &["tokenizer"],
    ),
    // Unknown modules and modes.
    (
        "mpnet-embed",
        &[("modules.json", Edit::Set("/1/type", r#""somebody.models.Strange""#))],
        &["modules.json", "strange"],
    ),
    (
        "pooling-max",
        &[("1_Pooling/config.json", Edit::Set("/pooling_mode", r#""median""#))],
        &["1_Pooling/config.json", "median"],
    ),
    // Settings that do not match the model.
    (
        "jina-v3-like",
        &[("onnxd.toml", Edit::Write("[inputs]\ntask_id = \"strange\"\n"))],
        &["onnxd.toml", "strange", "text-matching"],
    ),
    (
        "mpnet-embed",
        &[("onnxd.toml", Edit::Write("output = \"strange\"\n"))],
        &["onnxd.toml", "strange", "last_hidden_state"],
    ),
    (
        "variants",
        &[("onnxd.toml", Edit::Write("file = \"onnx/strange.onnx\"\n"))],
        &["onnx/strange.onnx", "model_O2.onnx|missing"],
    ),
];

/// Directories that can be served without such a file: the first has other graphs, and the second
/// one's graph already includes its Dense.
const NEEDS_LESS: [&str; 2] = ["variants", "more-square-dense-in-graph"];

/// Describes what is wrong with a refusal, if anything.
fn fault(refusal: Result<(), Refusal>, what: &str, words: &[&str]) -> Option<String> {
    let refusal = match refusal {
        Ok(()) => return Some(format!("{what}: served")),
        Err(refusal) => refusal,
    };
    let message = refusal.message.to_lowercase();
    let holds = |word: &&str| word.to_lowercase().split('|').any(|one| message.contains(one));
    let missing: Vec<&&str> = words.iter().filter(|word| !holds(word)).collect();
    let is_known = matches!(refusal.kind.as_str(), "contract" | "load" | "not_found");
    if missing.is_empty() && is_known {
        return None;
    }
    Some(format!("{what}: {} does not mention {missing:?}: {:.300}", refusal.kind, refusal.message))
}

/// Starts a server that loads models on request.
async fn server() -> Server {
    let any = root().join("mpnet-embed");
    Server::builder().model("m", &any).argument("--preload=none").start().await
}

async fn try_edits(
    server: &Server,
    copy: PathBuf,
    edits: &[(&str, Edit)],
    words: &[&str],
) -> Option<String> {
    for (file, edit) in edits {
        edit.apply(&copy.join(file));
    }
    let shown: Vec<&str> = edits.iter().map(|(file, _)| *file).collect();
    let what = format!("{} {shown:?}", copy.file_name().unwrap_or_default().display());
    // The previous model may have another dimension.
    let how = ["--allow-dimension-change"];
    let refusal = server.update_with("m", Some(&copy), &how).await.map(drop);
    let served = refusal.is_ok();
    let fault = fault(refusal, &what, words);
    if served {
        server.unload("m").await.expect("an unload");
    }
    fs::remove_dir_all(copy).expect("a copy");
    fault
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_directories_are_refused_with_the_file_named() {
    let home = Home::new();
    let server = server().await;
    let mut found = Vec::new();
    for (name, edits, words) in BROKEN {
        let copy = Directory::open(name, &home.models()).copy_to(&home.models().join(name));
        found.extend(try_edits(&server, copy, edits, words).await);
    }
    assert_none(&found);
    server.stop().await;
}

/// Returns the files without which a directory cannot be served.
fn required_files(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let has = |name: &str| directory.join(name).exists();
    let (has_graph, can_make) = (has("onnx"), has("vocab.txt") || has("merges.txt"));
    for entry in walk(directory, "") {
        let (folder, file) = entry.rsplit_once('/').unwrap_or(("", &entry));
        let is_needed = match (folder, file) {
            ("", "tokenizer.json") => !can_make,
            ("", "model.safetensors") => !has_graph,
            ("", _) => false,
            // A transformer's own config repeats what its tokenizer and graph state; the other two
            // are not needed.
            (_, "config.json") => !["Transformer", "Dropout", "SparseStaticEmbedding"]
                .iter()
                .any(|end| folder.ends_with(end)),
            (_, "model.safetensors") => true,
            ("onnx" | "0_Transformer/onnx", file) => {
                ["model.onnx", "model_quantized.onnx"].contains(&file) || !file.ends_with(".onnx")
            }
            _ => false,
        };
        if is_needed {
            files.push(entry);
        }
    }
    files
}

fn walk(directory: &Path, below: &str) -> Vec<String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory.join(below)).expect("a directory").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        match entry.path().is_dir() {
            true => files.extend(walk(directory, &path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_is_refused_by_name() {
    let home = Home::new();
    let server = server().await;
    let (mut found, mut tried) = (Vec::new(), 0);
    for name in names() {
        let directory = Directory::open(&name, &home.models().join("cache"));
        if NEEDS_LESS.contains(&name.as_str()) {
            continue;
        }
        for file in &required_files(&directory.path) {
            let copy = directory.copy_to(&home.models().join(&name));
            let word = file.rsplit('/').next().unwrap_or(file);
            let words = if word.ends_with(".onnx") { ["model.onnx"] } else { [file.as_str()] };
            found.extend(try_edits(&server, copy, &[(file, Edit::Remove)], &words).await);
            tried += 1;
        }
    }
    assert_none(&found);
    assert!(tried > 60, "only {tried} files were tried");
    server.stop().await;
}
