//! Reads `modules.json` of sentence-transformers: the modules of a model, in order. Only the last
//! part of a class name identifies a module, since releases moved the classes between packages.

use std::path::Path;

use onnxd_proto::domain::Refusal;
use serde_json::Value;

use super::json::{JsonFile, contract, join, read_json};

/// The file's name.
pub(crate) const FILE: &str = "modules.json";
/// Maximum modules of one model, or of one route of a router.
const MODULES_MAX: usize = 64;

/// Packages whose classes are identified by the last part of their names.
const NAMESPACES: [&str; 2] = ["sentence_transformers.", "pylate."];

/// A kind of module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Texts to token vectors or logits: the graph.
    Transformer,
    /// Token vectors to one text vector.
    Pooling,
    /// A linear layer.
    Dense,
    /// Scaling to mean 0 and variance 1.
    LayerNorm,
    /// Scaling to length 1.
    Normalize,
    /// No effect outside of training.
    Dropout,
    /// Texts to vectors by a table.
    StaticEmbedding,
    /// Logits of a masked language model to a sparse vector.
    SpladePooling,
    /// Texts to sparse vectors by a table.
    SparseStaticEmbedding,
    /// Different modules for queries and documents.
    Router,
    /// Logits of the last token to a score.
    LogitScore,
}

impl Kind {
    fn from_class(class: &str) -> Option<Self> {
        let is_known = NAMESPACES.iter().any(|name| class.starts_with(name));
        Some(match class.rsplit('.').next()? {
            // Models with custom code wrap their graph in a class of this name.
            "Transformer" => Self::Transformer,
            _ if !is_known => return None,
            "MLMTransformer" => Self::Transformer,
            "Pooling" => Self::Pooling,
            "Dense" => Self::Dense,
            "LayerNorm" => Self::LayerNorm,
            "Normalize" => Self::Normalize,
            "Dropout" => Self::Dropout,
            "StaticEmbedding" => Self::StaticEmbedding,
            "SpladePooling" => Self::SpladePooling,
            "SparseStaticEmbedding" | "IDF" => Self::SparseStaticEmbedding,
            "Router" | "Asym" => Self::Router,
            "LogitScore" | "CausalScoreHead" => Self::LogitScore,
            _ => return None,
        })
    }
}

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) kind: Kind,
    /// Its folder within the version; empty for the version's own directory.
    pub(crate) path: String,
    /// The name of its class.
    pub(crate) class: String,
}

impl Module {
    /// # Errors
    /// The class is unknown.
    fn new(file: &str, class: String, path: String) -> Result<Self, Refusal> {
        let Some(kind) = Kind::from_class(&class) else {
            return Err(contract(format!(
                "{file}: module {class:?} is not supported; export the whole model as one graph \
                 with an output sentence_embedding and remove {file}"
            )));
        };
        Ok(Self { kind, path, class })
    }

    /// Returns the path of a file in the module's folder.
    pub(crate) fn file(&self, name: &str) -> String {
        join(&self.path, name)
    }
}

/// Reads the list. Returns `None` if the file does not exist.
///
/// # Errors
/// The list is malformed, or a module is unknown.
pub(crate) fn read(dir: &Path) -> Result<Option<Vec<Module>>, Refusal> {
    let list = match read_json(dir, FILE)? {
        Some(Value::Array(list)) => list,
        Some(_) => return Err(contract(format!("{FILE} is not a list of modules"))),
        None => return Ok(None),
    };
    if list.len() > MODULES_MAX {
        return Err(contract(format!("{FILE} has more than {MODULES_MAX} modules")));
    }
    let mut modules = Vec::with_capacity(list.len());
    for module in list {
        let Value::Object(fields) = module else {
            return Err(contract(format!("{FILE}: a module is not an object")));
        };
        let module = JsonFile::new(FILE, fields);
        let class: String = module.get("type")?.unwrap_or_default();
        let path: String = module.get("path")?.unwrap_or_default();
        modules.push(Module::new(FILE, class, path)?);
    }
    Ok(Some(modules))
}

/// One route of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// `query`, `document` or another name.
    pub(crate) name: String,
    pub(crate) modules: Vec<Module>,
}

/// The routes of a router, and the name of the default one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Routes {
    pub(crate) routes: Vec<Route>,
    pub(crate) default: Option<String>,
}

/// Reads the routes of a router.
///
/// # Errors
/// The router's file is missing or malformed, or a module is unknown.
pub(crate) fn routes(dir: &Path, router: &Module) -> Result<Routes, Refusal> {
    let new = router.file("router_config.json");
    let old = router.file("config.json");
    let file = match JsonFile::read(dir, &new)? {
        Some(file) => file,
        None => JsonFile::read(dir, &old)?
            .ok_or_else(|| contract(format!("{new} is missing; the Router in {FILE} needs it")))?,
    };
    let malformed = |what: &str| contract(format!("{}: {what}", file.name()));
    let types = file.object("types")?.ok_or_else(|| malformed("types is missing"))?;
    let structure = file.object("structure")?.ok_or_else(|| malformed("structure is missing"))?;
    let mut routes = Vec::new();
    for name in structure.keys() {
        let ids: Vec<String> = structure.get(name)?.unwrap_or_default();
        if ids.len() > MODULES_MAX {
            return Err(malformed(&format!(
                "structure: a route has more than {MODULES_MAX} modules"
            )));
        }
        let mut modules = Vec::with_capacity(ids.len());
        for id in ids {
            let class: Option<String> = types.get(&id)?;
            let class =
                class.ok_or_else(|| malformed(&format!("module {id} has no entry in types")))?;
            let path = join(&router.path, &id);
            modules.push(Module::new(file.name(), class, path)?);
        }
        routes.push(Route { name: name.to_owned(), modules });
    }
    if routes.is_empty() || routes.len() > MODULES_MAX {
        return Err(malformed(&format!(
            "structure: expected between 1 and {MODULES_MAX} routes, got {}",
            routes.len()
        )));
    }
    let mut default = None;
    if let Some(parameters) = file.object("parameters")? {
        let mappings: Option<serde_json::Map<String, Value>> = parameters.get("route_mappings")?;
        if mappings.is_some_and(|mappings| !mappings.is_empty()) {
            return Err(malformed("route_mappings is not supported; remove it"));
        }
        default = parameters.get("default_route")?;
    }
    Ok(Routes { routes, default })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read_text(text: &str) -> Result<Option<Vec<Module>>, Refusal> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), text).unwrap();
        read(dir.path())
    }

    #[test]
    fn modules_of_every_release_are_recognized() {
        let list = r#"[
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
            {"path": "2_Dense", "type": "pylate.models.Dense.Dense"},
            {"type": "custom_st.Transformer"}
        ]"#;
        let kinds: Vec<Kind> =
            read_text(list).unwrap().unwrap().iter().map(|module| module.kind).collect();
        assert_eq!(kinds, [Kind::Transformer, Kind::Pooling, Kind::Dense, Kind::Transformer]);
        assert_eq!(read_text("[]").unwrap().unwrap(), []);
    }

    #[test]
    fn unknown_module_is_refused_by_name() {
        for class in ["sentence_transformers.models.CNN", "custom.BoW", ""] {
            let list = format!(r#"[{{"type": "{class}"}}]"#);
            let message = read_text(&list).unwrap_err().message;
            assert!(message.contains(class) && message.contains(FILE), "{message}");
        }
        assert!(read_text("{}").is_err() && read_text("[1]").is_err());
    }

    #[test]
    fn router_has_modules_for_each_route() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{
            "types": {"query_0_Idf": "sentence_transformers.SparseStaticEmbedding", "document_0_T": "sentence_transformers.MLMTransformer"},
            "structure": {"query": ["query_0_Idf"], "document": ["document_0_T"]},
            "parameters": {"default_route": "document"}
        }"#;
        fs::write(dir.path().join("router_config.json"), config).unwrap();
        let router = Module { kind: Kind::Router, path: String::new(), class: "Router".into() };
        let Routes { routes, default } = super::routes(dir.path(), &router).unwrap();
        assert_eq!(default.as_deref(), Some("document"));
        let found: Vec<(&str, Kind, &str)> = routes
            .iter()
            .map(|route| (&*route.name, route.modules[0].kind, &*route.modules[0].path))
            .collect();
        assert_eq!(
            found,
            [
                ("query", Kind::SparseStaticEmbedding, "query_0_Idf"),
                ("document", Kind::Transformer, "document_0_T")
            ]
        );
        fs::write(dir.path().join("router_config.json"), r#"{"structure": {"a": ["b"]}}"#).unwrap();
        assert!(super::routes(dir.path(), &router).is_err());
    }
}
