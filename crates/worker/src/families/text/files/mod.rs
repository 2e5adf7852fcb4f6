//! Reads what a version's files declare about a text model: its task ([`task`]), its modules
//! ([`modules`]) and their steps ([`plan`]), and how texts are prepared ([`config`], [`prompts`]).
//! [`assume`] has the defaults for what no file sets. Independent of the graph and the tokenizer.

pub(crate) mod assume;
pub(crate) mod config;
pub(crate) mod json;
pub(crate) mod late;
pub(crate) mod length;
pub(crate) mod model2vec;
pub(crate) mod modules;
pub(crate) mod plan;
pub(crate) mod prompts;
pub(crate) mod task;

use std::path::{Path, PathBuf};

use onnxd_proto::domain::{Guess, Refusal};
use serde_json::Value;

use self::{
    json::{JsonFile, join, read_text},
    model2vec::Model2Vec,
    modules::{Kind, Module},
};
use crate::families::own::Own;

/// Architectures that occur in a file name, the usual one first.
const TRANSFORMERS: [&str; 7] =
    ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"];

/// The files that describe a model, each read once.
#[derive(Clone, Debug)]
pub(crate) struct Files<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) own: &'a Own,
    /// The folder of the module that takes texts, with its configuration; usually empty.
    pub(crate) home: String,
    /// `modules.json`.
    pub(crate) modules: Option<Vec<Module>>,
    /// `config.json`.
    pub(crate) config: JsonFile,
    /// `config_sentence_transformers.json`.
    pub(crate) sentence: JsonFile,
    /// `sentence_bert_config.json`.
    pub(crate) transformer: JsonFile,
    /// `tokenizer_config.json`.
    pub(crate) tokenizer: JsonFile,
}

impl<'a> Files<'a> {
    /// Reads the files; missing ones are empty.
    ///
    /// # Errors
    /// A file is malformed.
    pub(crate) fn read(dir: &'a Path, own: &'a Own) -> Result<Self, Refusal> {
        let modules = modules::read(dir)?;
        let home = home(dir, modules.as_deref())?;
        let at_home = |name: &str| match JsonFile::read(dir, &join(&home, name))? {
            Some(file) => Ok(file),
            None => Ok(JsonFile::read(dir, name)?.unwrap_or_default()),
        };
        let sentence = JsonFile::read(dir, "config_sentence_transformers.json")?;
        Ok(Self {
            config: at_home("config.json")?,
            transformer: transformer(&at_home)?,
            tokenizer: at_home("tokenizer_config.json")?,
            sentence: sentence.unwrap_or_default(),
            dir,
            own,
            home,
            modules,
        })
    }

    /// Finds a file of this name in the home folder, the version itself or the graph's folder, in
    /// this order.
    ///
    /// # Errors
    /// A folder leaves the version.
    pub(crate) fn place(&self, name: &str) -> Result<Option<String>, Refusal> {
        for folder in [self.home.as_str(), "", "onnx"] {
            let place = join(folder, name);
            if json::within(self.dir, &place)?.is_file() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// Returns the path of the home folder.
    ///
    /// # Errors
    /// The path leaves the version.
    pub(crate) fn home_dir(&self) -> Result<PathBuf, Refusal> {
        match self.home.is_empty() {
            true => Ok(self.dir.to_owned()),
            false => json::within(self.dir, &self.home),
        }
    }

    /// Returns the template in `tokenizer_config.json`, which has one text or a list of named ones.
    fn listed_chat_template(&self) -> Result<Option<String>, Refusal> {
        let named = |list: &[Value], name: &str| {
            let found = list.iter().find(|one| one["name"].as_str() == Some(name));
            found.and_then(|one| one["template"].as_str()).map(str::to_owned)
        };
        Ok(match self.tokenizer.get("chat_template")? {
            Some(Value::String(template)) => Some(template),
            Some(Value::Array(list)) => named(&list, "rerank").or_else(|| named(&list, "default")),
            _ => None,
        })
    }

    /// Returns a special token from `tokenizer_config.json`, where it is a text or an object.
    ///
    /// # Errors
    /// The file is malformed.
    pub(crate) fn special_token(&self, field: &str) -> Result<Option<String>, Refusal> {
        let value: Option<Value> = self.tokenizer.get(field)?;
        Ok(match value {
            Some(Value::String(token)) => Some(token),
            Some(value) => value["content"].as_str().map(str::to_owned),
            None => None,
        })
    }

    /// Returns the longest text that the `tokenizer_config.json` of a folder sets.
    ///
    /// # Errors
    /// The file is malformed.
    pub(crate) fn tokenizer_limit(&self, folder: &str) -> Result<Option<u32>, Refusal> {
        let file = JsonFile::read(self.dir, &join(folder, "tokenizer_config.json"))?;
        let limit = length::tokenizer_limit(&file.unwrap_or_default())?;
        Ok(limit.and_then(|limit| u32::try_from(limit).ok()))
    }

    /// Returns the chat template, if there is one.
    ///
    /// # Errors
    /// The file is malformed.
    pub(crate) fn chat_template(&self) -> Result<Option<String>, Refusal> {
        match self.place("chat_template.jinja")? {
            Some(place) => read_text(self.dir, &place),
            None => self.listed_chat_template(),
        }
    }
}

/// Returns the configuration of the transformer module, whose file is named after the architecture
/// in older releases.
fn transformer(at_home: &impl Fn(&str) -> Result<JsonFile, Refusal>) -> Result<JsonFile, Refusal> {
    for kind in TRANSFORMERS {
        let file = at_home(&format!("sentence_{kind}_config.json"))?;
        if !file.name().is_empty() {
            return Ok(file);
        }
    }
    Ok(JsonFile::default())
}

/// Returns the folder of the first module that takes texts, including modules of a router.
fn home(dir: &Path, modules: Option<&[Module]>) -> Result<String, Refusal> {
    let Some(modules) = modules else { return Ok(String::new()) };
    let find = |modules: &[Module], kinds: &[Kind]| {
        let found = modules.iter().find(|module| kinds.contains(&module.kind));
        found.map(|module| join(&module.path, "").trim_end_matches('/').to_owned())
    };
    let graph = [Kind::Transformer];
    let table = [Kind::StaticEmbedding, Kind::SparseStaticEmbedding];
    let router = modules.iter().find(|module| module.kind == Kind::Router);
    let inner: Vec<Module> = match router {
        Some(router) => {
            let routes = modules::routes(dir, router)?.routes;
            routes.into_iter().flat_map(|route| route.modules).collect()
        }
        None => Vec::new(),
    };
    Ok(find(modules, &graph)
        .or_else(|| find(&inner, &graph))
        .or_else(|| find(modules, &table))
        .or_else(|| find(&inner, &table))
        .unwrap_or_default())
}

/// Creates a guess for a setting that no file has.
pub(crate) fn guess(key: &str, value: impl ToString, reason: impl Into<String>) -> Guess {
    Guess { key: key.to_owned(), value: value.to_string(), reason: reason.into() }
}

/// Returns whether the text model in `dir` uses a table instead of a graph.
///
/// # Errors
/// A file is malformed.
pub(crate) fn is_table(dir: &Path) -> Result<bool, Refusal> {
    if let Some(modules) = modules::read(dir)? {
        let is_table = |module: &Module| {
            matches!(module.kind, Kind::StaticEmbedding | Kind::SparseStaticEmbedding)
        };
        return Ok(modules.iter().any(is_table));
    }
    Ok(Model2Vec::read(dir)?.is_some())
}
