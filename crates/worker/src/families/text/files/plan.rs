//! Builds the steps from the graph's output to an answer, as modules.json lists them. There is one
//! route, or one for each side of a search. Reads the modules' configurations; their weights are
//! read when the model is loaded.

use std::{fs, path::Path};

use onnxd_proto::{
    domain::{Pooling, PoolingMode, Refusal},
    wire::operation::Role,
};

use super::{
    Files,
    json::{JsonFile, contract},
    model2vec::Model2Vec,
    modules::{self, Kind, Module},
    prompts,
};

/// Fields of older releases that each enable a pooling mode, in the order in which the results are
/// concatenated.
const OLD_MODES: [(&str, PoolingMode); 6] = [
    ("pooling_mode_cls_token", PoolingMode::Cls),
    ("pooling_mode_max_tokens", PoolingMode::Max),
    ("pooling_mode_mean_tokens", PoolingMode::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", PoolingMode::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", PoolingMode::WeightedMean),
    ("pooling_mode_lasttoken", PoolingMode::LastToken),
];

/// The steps of a text from its tokens to its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    /// The side of a search that uses it, or another name; empty if it is the only route.
    pub(crate) name: String,
    pub(crate) source: Source,
    /// Applied to each token vector.
    pub(crate) token_steps: Vec<Step>,
    /// `None` if no file sets it.
    pub(crate) pooling: Option<Pooling>,
    /// Whether the tokens of a prompt are left out of pooling.
    pub(crate) without_prompt: bool,
    /// Applied to the text vector.
    pub(crate) steps: Vec<Step>,
    pub(crate) splade: Option<Splade>,
    /// Whether the last step scales vectors to length 1.
    pub(crate) normalize: bool,
    /// The number of leading components to keep, without scaling the result again.
    pub(crate) kept: Option<usize>,
}

impl Route {
    /// Returns whether onnxd pools, rather than the graph.
    pub(crate) fn pools(&self) -> bool {
        self.pooling.as_ref().is_some_and(|pooling| !pooling.is_none())
    }
}

/// Converts tokens to vectors or weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Source {
    /// The graph.
    #[default]
    Graph,
    /// A table of vectors in this folder.
    Table(String),
    /// A table of weights in this folder.
    Weights(String),
}

/// A step; its weights are in the module's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Dense(Module),
    LayerNorm(Module),
    Normalize,
}

/// How logits of a masked language model become a sparse vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Splade {
    /// Sums over the tokens instead of taking the maximum.
    pub(crate) is_sum: bool,
    /// Applies the logarithm twice.
    pub(crate) is_twice: bool,
}

/// All routes of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// At least one.
    pub(crate) routes: Vec<Route>,
    /// The index of the route for texts without a side.
    pub(crate) default: usize,
    /// The ids of the tokens for yes and no.
    pub(crate) yes_no: Option<(u32, Option<u32>)>,
}

impl Plan {
    /// Reads the modules.
    ///
    /// # Errors
    /// A module is unknown, or its file is missing or malformed.
    pub(crate) fn read(files: &Files<'_>) -> Result<Self, Refusal> {
        let mut plan = Self::from_files(files)?;
        if let Some(kept) = files.sentence.get::<usize>("truncate_dim")? {
            plan.routes.iter_mut().for_each(|route| route.kept = Some(kept));
        }
        Ok(plan)
    }

    fn from_files(files: &Files<'_>) -> Result<Self, Refusal> {
        let Some(list) = &files.modules else { return Self::without_list(files) };
        let dir = files.dir;
        let router = list.iter().position(|module| module.kind == Kind::Router);
        let (routes, default) = match router {
            None => (vec![route(dir, "", list)?], 0),
            Some(index) => {
                let modules::Routes { routes, default } = modules::routes(dir, &list[index])?;
                // As in sentence-transformers, the first route is the default if the file names
                // none.
                let default = routes.iter().position(|route| Some(&route.name) == default.as_ref());
                require_one_graph(&routes)?;
                let all = |inner: &modules::Route| {
                    let modules = [&list[..index], &inner.modules, &list[index + 1..]].concat();
                    route(dir, &inner.name, &modules)
                };
                (routes.iter().map(all).collect::<Result<_, _>>()?, default.unwrap_or(0))
            }
        };
        let mut yes_no = None;
        for module in list.iter().filter(|module| module.kind == Kind::LogitScore) {
            yes_no = Some(logit_score(dir, module)?);
        }
        Ok(Self { routes, default, yes_no })
    }

    /// Builds the plan of a model without modules.json: a graph, or a model2vec table.
    fn without_list(files: &Files<'_>) -> Result<Self, Refusal> {
        let mut route = Route::default();
        if let Some(table) = Model2Vec::read(files.dir)? {
            route.source = Source::Table(String::new());
            route.normalize = table.normalize;
        } else {
            // Some exporters copy the folder but not modules.json.
            let module =
                Module { kind: Kind::Pooling, path: "1_Pooling".into(), class: "Pooling".into() };
            if let Some(other) = other_module(files.dir) {
                return Err(contract(format!(
                    "the folder {other} belongs to a module, but {} is missing; copy it from the \
                     original model",
                    modules::FILE
                )));
            }
            if let Some(file) = JsonFile::read(files.dir, &module.file("config.json"))? {
                route.pooling = Some(pooling(&file)?);
                route.without_prompt = !file.get("include_prompt")?.unwrap_or(true);
            }
            route.normalize = true;
        }
        Ok(Self { routes: vec![route], default: 0, yes_no: None })
    }

    /// Returns whether a route exists for this side of a search or this prompt.
    pub(crate) fn has_route(&self, role: Option<Role>, prompt: Option<&str>) -> bool {
        self.routes.len() == 1
            || role.is_none()
            || prompt.is_some()
            || self.routes.iter().any(|route| prompts::role_of(&route.name) == role)
    }

    /// Returns the route for this prompt or side.
    pub(crate) fn route(&self, role: Option<Role>, prompt: Option<&str>) -> usize {
        let named = |name: &str| self.routes.iter().position(|route| route.name == name);
        let for_role =
            |role| self.routes.iter().position(|route| prompts::role_of(&route.name) == Some(role));
        prompt
            .and_then(|name| named(name).or_else(|| prompts::role_of(name).and_then(for_role)))
            .or_else(|| role.and_then(for_role))
            .unwrap_or(self.default)
    }
}

/// Checks that the routes of a router share one graph.
fn require_one_graph(routes: &[modules::Route]) -> Result<(), Refusal> {
    let graphs = routes.iter().flat_map(|route| &route.modules);
    let mut graphs: Vec<&str> = graphs
        .filter(|module| module.kind == Kind::Transformer)
        .map(|module| module.path.as_str())
        .collect();
    graphs.sort_unstable();
    graphs.dedup();
    match graphs.len() {
        0 | 1 => Ok(()),
        _ => Err(contract(format!(
            "{}: the router has several graphs ({}), but only one is supported; serve each route \
             as a separate model",
            modules::FILE,
            graphs.join(", ")
        ))),
    }
}

/// Builds the route through these modules.
fn route(dir: &Path, name: &str, list: &[Module]) -> Result<Route, Refusal> {
    let mut route = Route { name: name.to_owned(), ..Route::default() };
    let mut sources = 0;
    let is_pooled_later =
        |index: usize| list[index..].iter().any(|module| module.kind == Kind::Pooling);
    for (index, module) in list.iter().enumerate() {
        let step = match module.kind {
            Kind::Transformer | Kind::StaticEmbedding | Kind::SparseStaticEmbedding => {
                sources += 1;
                route.source = match module.kind {
                    Kind::Transformer => Source::Graph,
                    Kind::StaticEmbedding => Source::Table(module.path.clone()),
                    _ => Source::Weights(module.path.clone()),
                };
                continue;
            }
            Kind::Pooling | Kind::SpladePooling
                if route.pooling.is_some() || route.splade.is_some() =>
            {
                return Err(unsupported(module, "appears twice; a text is pooled only once"));
            }
            Kind::Router => {
                return Err(unsupported(
                    module,
                    "is inside another router, which is not supported",
                ));
            }
            Kind::Pooling => {
                let file = required_config(dir, module)?;
                route.pooling = Some(pooling(&file)?);
                route.without_prompt = !file.get("include_prompt")?.unwrap_or(true);
                continue;
            }
            Kind::SpladePooling => {
                route.splade = Some(splade(&required_config(dir, module)?)?);
                continue;
            }
            Kind::Dropout | Kind::LogitScore => continue,
            Kind::Dense => Step::Dense(module.clone()),
            Kind::LayerNorm => Step::LayerNorm(module.clone()),
            Kind::Normalize if index + 1 == list.len() => {
                route.normalize = true;
                continue;
            }
            Kind::Normalize => Step::Normalize,
        };
        if is_pooled_later(index) { route.token_steps.push(step) } else { route.steps.push(step) }
    }
    let is_sparse = route.splade.is_some() || matches!(route.source, Source::Weights(_));
    if is_sparse && (route.normalize || !route.steps.is_empty() || !route.token_steps.is_empty()) {
        return Err(contract(format!(
            "{}: a sparse model cannot have other modules besides its pooling or weights",
            modules::FILE
        )));
    }
    match sources {
        0 | 1 => Ok(route),
        _ => Err(contract(format!(
            "{}: a route has two modules that take texts, but only one is supported",
            modules::FILE
        ))),
    }
}

/// Finds a module's folder other than those of the graph and of pooling.
fn other_module(dir: &Path) -> Option<String> {
    let names =
        fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_module = |name: &String| {
        let kind = name.split_once('_').filter(|(number, _)| number.parse::<u8>().is_ok());
        kind.is_some_and(|(_, kind)| matches!(kind, "Dense" | "LayerNorm" | "SpladePooling"))
    };
    names.into_iter().find(is_module)
}

fn unsupported(module: &Module, what: &str) -> Refusal {
    contract(format!("{}: module {:?} {what}", modules::FILE, module.class))
}

/// Reads the configuration of a module.
fn required_config(dir: &Path, module: &Module) -> Result<JsonFile, Refusal> {
    let name = module.file("config.json");
    JsonFile::read(dir, &name)?
        .ok_or_else(|| contract(format!("{name} is missing; {} needs it", modules::FILE)))
}

fn pooling(file: &JsonFile) -> Result<Pooling, Refusal> {
    if let Some(pooling) = file.get("pooling_mode")? {
        return Ok(pooling);
    }
    let mut modes = Vec::new();
    for field in file.keys().filter(|field| field.starts_with("pooling_mode_")) {
        let is_set = file.get(field)?.unwrap_or(false);
        if is_set && !OLD_MODES.iter().any(|(known, _)| *known == field) {
            let name = file.name();
            return Err(contract(format!(
                "{name}: unknown pooling mode {field}; set pooling in onnxd.toml"
            )));
        }
    }
    for (field, mode) in OLD_MODES {
        if file.get(field)?.unwrap_or(false) {
            modes.push(mode);
        }
    }
    // The default of sentence-transformers.
    Ok(if modes.is_empty() { PoolingMode::Mean.into() } else { Pooling::new(modes) })
}

fn splade(file: &JsonFile) -> Result<Splade, Refusal> {
    let strategy: Option<String> = file.get("pooling_strategy")?;
    let activation: Option<String> = file.get("activation_function")?;
    let unknown = |field: &str, word: &str| {
        Err(contract(format!("{}: {field} {word:?} is not supported", file.name())))
    };
    let is_sum = match strategy.as_deref() {
        None | Some("max") => false,
        Some("sum") => true,
        Some(word) => return unknown("pooling_strategy", word),
    };
    let is_twice = match activation.as_deref() {
        None | Some("relu") => false,
        Some("log1p_relu") => true,
        Some(word) => return unknown("activation_function", word),
    };
    Ok(Splade { is_sum, is_twice })
}

fn logit_score(dir: &Path, module: &Module) -> Result<(u32, Option<u32>), Refusal> {
    let file = required_config(dir, module)?;
    let yes = file.get("true_token_id")?;
    let yes = yes.ok_or_else(|| contract(format!("{}: true_token_id is missing", file.name())))?;
    Ok((yes, file.get("false_token_id")?))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
