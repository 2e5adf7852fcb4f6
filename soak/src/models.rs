//! The served models, and candidates that must or must not be accepted.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use e2e::{fixtures, home::Home, kinds::Kind};

/// A served model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Model {
    pub name: &'static str,
    /// Prefix of the directories of its contents.
    pub prefix: &'static str,
    pub kinds: &'static [Kind],
}

/// Served and updated models. The first one receives all sorts of bad candidates.
pub(crate) const MODELS: [Model; 4] = [
    Model { name: "embed", prefix: "", kinds: &Kind::OF_EMBEDDERS },
    Model { name: "classify", prefix: "classify_", kinds: &Kind::OF_CLASSIFIERS },
    Model { name: "rerank", prefix: "rerank_", kinds: &Kind::OF_RERANKERS },
    Model { name: "tensor", prefix: "tensor_", kinds: &Kind::OF_TENSORS },
];
/// Loaded by its first request, then unloaded and loaded again.
pub(crate) const SPARE: Model = Model { name: "spare", prefix: "", kinds: &[Kind::Embed] };

/// A content that may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    A,
    B,
}

impl Content {
    pub(crate) const ALL: [Self; 2] = [Self::A, Self::B];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl Model {
    /// Returns the directory of a content.
    pub(crate) fn directory(self, content: Content) -> PathBuf {
        fixtures::model(&format!("tiny/{}{}", self.prefix, content.name()))
    }

    /// Returns the source that the server is configured with: a link that can be repointed.
    pub(crate) fn source(self, home: &Home) -> PathBuf {
        home.models().join(format!("current-{}", self.name))
    }

    /// Creates a directory with this content and a new digest, where the model allows it.
    pub(crate) fn fresh(self, content: Content, home: &Home) -> Option<PathBuf> {
        let from = self.directory(content);
        from.join("config.json").is_file().then(|| {
            let to = unique(home, "fresh");
            let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
            fixtures::variant(&from, &to, &name);
            to
        })
    }
}

/// Returns an unused path.
pub(crate) fn unique(home: &Home, what: &str) -> PathBuf {
    static PATHS_CREATED: AtomicUsize = AtomicUsize::new(0);
    home.models().join(format!("{what}-{}", PATHS_CREATED.fetch_add(1, Ordering::Relaxed)))
}

/// Repoints a link atomically.
pub(crate) fn repoint(link: &Path, to: &Path) {
    let new = link.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&new);
    symlink(to, &new).expect("a link");
    fs::rename(new, link).expect("a link");
}

/// A directory that must be refused, and the allowed kinds of refusal.
pub(crate) type RefusedDirectory = (&'static str, &'static [&'static str]);

/// Bad candidates. Those of the test models are in `tiny/`; [`prepare`] creates the others.
pub(crate) const BAD: [RefusedDirectory; 13] = [
    ("truncated", &["load"]),
    ("corrupt", &["load"]),
    ("wide", &["contract"]),
    ("no_tokenizer", &["contract"]),
    ("nan", &["contract"]),
    ("renamed", &["contract"]),
    ("foreign_tokenizer", &["contract"]),
    ("missing", &["not_found"]),
    ("bad-canary", &["canary"]),
    ("linked", &["contract"]),
    ("pipe", &["contract"]),
    ("bad-sums", &["checksum"]),
    ("dense", &["contract"]),
];

/// Returns a bad candidate's path and its allowed kinds of refusal.
pub(crate) fn refused_directory(
    candidate: usize,
    home: &Home,
) -> (PathBuf, &'static [&'static str]) {
    let (name, kinds) = BAD[candidate % BAD.len()];
    let made = home.models().join(name);
    let path = if made.is_dir() { made } else { fixtures::model("tiny").join(name) };
    (path, kinds)
}

/// Creates the directories that the test models lack.
pub(crate) fn prepare(home: &Home) {
    for model in MODELS.iter().chain([&SPARE]) {
        repoint(&model.source(home), &model.directory(Content::A));
    }
    let b = MODELS[0].directory(Content::B);
    let made = |name: &str| {
        let directory = home.models().join(name);
        fixtures::replace_model(&b, &directory);
        directory
    };
    let canary = made("bad-canary");
    let line = serde_json::json!({"text": "hello world", "embedding": vec![0.1; 32],
        "min_cosine": 0.999});
    fs::write(canary.join("canary.jsonl"), line.to_string()).expect("a canary");
    // Links inside a source's own tree are followed; this one leaves it.
    let linked = made("linked");
    let elsewhere = home.models().join("elsewhere.onnx");
    fs::rename(linked.join("model.onnx"), &elsewhere).expect("a file");
    symlink(elsewhere, linked.join("model.onnx")).expect("a link");
    let pipe = made("pipe");
    fs::remove_file(pipe.join("model.onnx")).expect("a file");
    nix::unistd::mkfifo(&pipe.join("model.onnx"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let sums = made("bad-sums");
    fs::write(sums.join("SHA256SUMS"), format!("{}  model.onnx\n", "0".repeat(64))).expect("sums");
}

/// Copies a content and adds checksums and a second hard link to the model.
pub(crate) fn with_sums(content: Content, home: &Home) -> PathBuf {
    let directory = unique(home, "torn");
    fixtures::replace_model(&MODELS[0].directory(content), &directory);
    fixtures::write_checksums(&directory);
    fs::hard_link(directory.join("model.onnx"), directory.join("second-name")).expect("a link");
    directory
}

/// The answer of each content, by content name.
pub(crate) type KnownAnswers = BTreeMap<String, Vec<f32>>;
