//! Builds a text model: reads its files, opens its tokenizers, graph and matrices, and checks that
//! they fit together. Called by [`super::model`].

use onnxd_proto::{
    domain::{Guess, Pooling, PoolingMode, Refusal, SwitchFacts, Task},
    wire::operation::{Switch, SwitchValue},
};

use super::{
    consistency::{check_widths, require_placement, require_row_per_token, steps_not_in_graph},
    files::{
        Files, assume,
        config::{self, Settings},
        guess,
        json::contract,
        plan::{Route, Source, Splade, Step},
        task,
    },
    matrices::{dense::Rows, sparse_static::SparseStatic, static_table::StaticTable},
    model::{LoadedRoute, LoadedSource},
    output::{self, Chosen, OutputContext, Part},
    prepare::Preparation,
    readout::{LoadedStep, Readout},
    switches::Switches,
    template::Template,
    tokenize::Tokenizer,
};
use crate::{families::family::Opening, session::Session};

/// The limit for tables, which take texts of any length.
const TABLE_TOKENS: u32 = 131_072;
/// The tokens with which Qwen's rerankers answer.
const YES: &str = "yes";
const NO: &str = "no";

/// The parts of a text model.
pub(super) struct Parts {
    pub(super) settings: Settings,
    pub(super) preparation: Preparation,
    pub(super) session: Option<Session>,
    pub(super) routes: Vec<LoadedRoute>,
    pub(super) guesses: Vec<Guess>,
}

/// Builds a model. The cheapest checks come first.
///
/// # Errors
/// A file is malformed, or two files do not match.
pub(super) fn build(opening: &Opening<'_>) -> Result<Parts, Refusal> {
    let files = Files::read(opening.dir, opening.model_config)?;
    let mut settings = config::read(&files)?;
    let mut guesses = std::mem::take(&mut settings.guesses);
    let tokenizers = tokenizers(&files, &settings)?;
    let is_generative = is_generative(&files, &settings)?;
    let template = match settings.task {
        Task::Rerank => Template::read(&files, is_generative, &mut guesses)?,
        _ => None,
    };
    let yes_no = match is_generative {
        true => Some(yes_no(&files, &settings, &tokenizers[0], &mut guesses)?),
        false => None,
    };
    let mut session = graph(opening, &settings)?;
    let names = session.as_ref().map(Session::switches).unwrap_or_default();
    let switches = Switches::new(names, &settings.words, files.model_config, &mut guesses)?;
    let chosen = match &mut session {
        Some(session) => {
            Some(select(session, &files, &settings, (is_generative, opening.file), &mut guesses)?)
        }
        None => None,
    };
    let file = opening.file;
    let builder = RouteBuilder { files: &files, settings: &settings, chosen, yes_no, file };
    let routes = settings
        .plan
        .routes
        .iter()
        .zip(&tokenizers)
        .map(|(route, tokenizer)| builder.route(route, tokenizer, &mut guesses))
        .collect::<Result<Vec<_>, _>>()?;
    let preparation = Preparation::new(&files, &settings, tokenizers, switches, template)?;
    Ok(Parts { settings, preparation, session, routes, guesses })
}

/// Opens the tokenizer of each route. A table may have one in its own folder.
fn tokenizers(files: &Files<'_>, settings: &Settings) -> Result<Vec<Tokenizer>, Refusal> {
    let open = |route: &Route| {
        let is_only_route = settings.plan.routes.len() == 1;
        let (folder, max_tokens) = match &route.source {
            Source::Graph => {
                return Tokenizer::open(files, settings.max_tokens, settings.lowercase);
            }
            Source::Table(folder) if is_only_route => (folder, settings.max_tokens),
            Source::Table(folder) => (folder, TABLE_TOKENS),
            Source::Weights(folder) => {
                (folder, files.tokenizer_limit(folder)?.unwrap_or(TABLE_TOKENS))
            }
        };
        let home = folder.trim_start_matches("./").trim_matches('.').to_owned();
        let mut tokenizer =
            Tokenizer::open(&Files { home, ..files.clone() }, max_tokens, settings.lowercase)?;
        // For a graph, this limit only applies to training; for a table it is the only limit.
        if let Some(limit) = tokenizer.declared_limit() {
            tokenizer = tokenizer.with_max(limit.min(max_tokens));
        }
        Ok(tokenizer)
    };
    settings.plan.routes.iter().map(open).collect()
}

/// Returns whether a reranker answers with a token rather than a score.
fn is_generative(files: &Files<'_>, settings: &Settings) -> Result<bool, Refusal> {
    if settings.task != Task::Rerank {
        return Ok(false);
    }
    let architectures: Vec<String> = files.config.get("architectures")?.unwrap_or_default();
    let is_causal = architectures.iter().any(|name| name.ends_with("ForCausalLM"));
    Ok(settings.plan.yes_no.is_some() || files.model_config.true_token.is_some() || is_causal)
}

/// Returns the ids of the tokens for yes and no.
fn yes_no(
    files: &Files<'_>,
    settings: &Settings,
    tokenizer: &Tokenizer,
    guesses: &mut Vec<Guess>,
) -> Result<(usize, Option<usize>), Refusal> {
    let token_id = |key: &str, token: &str| {
        tokenizer.id_of(token).map(|id| id as usize).ok_or_else(|| {
            contract(format!("onnxd.toml: {key}: token {token:?} is not in tokenizer.json"))
        })
    };
    if let Some(yes) = &files.model_config.true_token {
        let no = files
            .model_config
            .false_token
            .as_deref()
            .map(|no| token_id("false_token", no))
            .transpose()?;
        return Ok((token_id("true_token", yes)?, no));
    }
    if let Some((yes, no)) = settings.plan.yes_no {
        return Ok((yes as usize, no.map(|no| no as usize)));
    }
    match (tokenizer.id_of(YES), tokenizer.id_of(NO)) {
        (Some(yes), Some(no)) => {
            for (key, token) in [("true_token", YES), ("false_token", NO)] {
                guesses.push(guess(key, token, "no file names the tokens for yes and no"));
            }
            Ok((yes as usize, Some(no as usize)))
        }
        _ => Err(contract(
            "the model answers with a token, but no file names the tokens for yes and no; set \
             true_token and false_token in onnxd.toml",
        )),
    }
}

/// Opens the graph, if a route needs it.
fn graph(opening: &Opening<'_>, settings: &Settings) -> Result<Option<Session>, Refusal> {
    if settings.plan.routes.iter().all(|route| route.source != Source::Graph) {
        return Ok(None);
    }
    let Some(model) = opening.model else {
        return Err(contract(
            "no .onnx file found, but this model needs a graph; export one with `optimum-cli \
             export onnx`",
        ));
    };
    let opened = Session::open(opening.runtime, model, opening.form);
    opened.map(Some).map_err(|error| error.refuse(opening.file))
}

fn select(
    session: &mut Session,
    files: &Files<'_>,
    settings: &Settings,
    (is_generative, file): (bool, &str),
    guesses: &mut Vec<Guess>,
) -> Result<Chosen, Refusal> {
    let context = OutputContext {
        task: settings.task,
        configured: files.model_config.output.as_deref(),
        is_listed: files.modules.is_some(),
        is_pooled_outside: settings.plan.routes.iter().any(Route::pools),
        vocabulary: files.config.get("vocab_size")?,
        is_generative,
        file,
    };
    let chosen = output::choose(session.outputs(), &context, guesses)?;
    session.select(&chosen.name).map_err(|error| error.refuse(file))?;
    Ok(chosen)
}

/// Builds the routes.
struct RouteBuilder<'a> {
    files: &'a Files<'a>,
    settings: &'a Settings,
    chosen: Option<Chosen>,
    yes_no: Option<(usize, Option<usize>)>,
    /// The model's name in messages.
    file: &'a str,
}

impl RouteBuilder<'_> {
    fn route(
        &self,
        route: &Route,
        tokenizer: &Tokenizer,
        guesses: &mut Vec<Guess>,
    ) -> Result<LoadedRoute, Refusal> {
        let dir = self.files.dir;
        let mut source = match &route.source {
            Source::Graph => LoadedSource::Graph(self.readout(route, guesses)?),
            Source::Table(folder) => {
                let table = StaticTable::open(dir, folder)?;
                let steps = LoadedStep::read(dir, &route.steps)?;
                check_widths(&steps, Some(table.dimension()), "the table")?;
                require_row_per_token(tokenizer, table.tokens())?;
                LoadedSource::Table(table, steps)
            }
            Source::Weights(folder) => {
                let id_of = |token: &str| tokenizer.id_of(token);
                LoadedSource::Weights(SparseStatic::open(dir, folder, &id_of)?)
            }
        };
        let is_finished = self.chosen.as_ref().is_some_and(|chosen| chosen.part == Part::Finished);
        let is_listed = self.files.modules.is_some();
        let normalize = match self.settings.normalize {
            Some(normalize) => normalize,
            None if is_finished && !is_listed && route.source == Source::Graph => false,
            None => {
                let is_assumed = !is_listed && route.source == Source::Graph;
                if is_assumed && self.settings.task == Task::Embed {
                    let reason = "there is no modules.json, and most embedding models normalize";
                    guesses.push(guess("normalize", route.normalize, reason));
                }
                route.normalize
            }
        };
        let Some(kept) = route.kept.filter(|_| self.settings.task == Task::Embed) else {
            return Ok(LoadedRoute { source, normalize });
        };
        let steps = match &mut source {
            LoadedSource::Graph(Readout::Pooled { steps, .. } | Readout::Stepped(steps))
            | LoadedSource::Table(_, steps) => steps,
            _ => return Ok(LoadedRoute { source, normalize }),
        };
        steps.extend(normalize.then_some(LoadedStep::Normalize));
        steps.push(LoadedStep::Cut(kept.max(1)));
        Ok(LoadedRoute { source, normalize: false })
    }

    fn readout(&self, route: &Route, guesses: &mut Vec<Guess>) -> Result<Readout, Refusal> {
        let Some(chosen) = &self.chosen else {
            return Err(contract("the model needs a graph, but has none"));
        };
        let dir = self.files.dir;
        Ok(match (self.settings.task, chosen.part) {
            (Task::Embed, Part::Tokens) => {
                let pooling = self.pooling(route, guesses)?;
                let token_steps = LoadedStep::read(dir, &route.token_steps)?;
                let steps = LoadedStep::read(dir, &route.steps)?;
                require_placement(&token_steps, Rows::Tokens)?;
                require_placement(&steps, Rows::Texts)?;
                let width = check_widths(&token_steps, chosen.width, &chosen.name)?;
                check_widths(
                    &steps,
                    width.map(|width| width * pooling.modes().len()),
                    &chosen.name,
                )?;
                Readout::Pooled { token_steps, pooling, steps }
            }
            (Task::Embed, Part::Texts) => Readout::Stepped(self.remaining(route, chosen, guesses)?),
            (Task::Embed, Part::Finished) => {
                Readout::Stepped(self.unfinished(route, chosen, guesses)?)
            }
            (Task::Sparse, Part::Finished) => Readout::Stepped(Vec::new()),
            (Task::Sparse, Part::Tokens) => {
                let configured = self.files.model_config.pooling.as_ref().map(Pooling::modes);
                match (configured, route.splade) {
                    (Some([PoolingMode::Max]), _) => Readout::Splade(Splade::default()),
                    (Some(_), _) => {
                        let what = "onnxd.toml: pooling: a sparse model only supports \"max\"";
                        return Err(contract(what));
                    }
                    (None, Some(splade)) => Readout::Splade(splade),
                    (None, None) => {
                        let reason = "no module sets it, and most SPLADE models use max";
                        guesses.push(guess("pooling", "max", reason));
                        Readout::Splade(Splade::default())
                    }
                }
            }
            (Task::MultiVector, Part::Tokens) => {
                let steps = [&route.token_steps[..], &route.steps[..]].concat();
                let steps = LoadedStep::read(dir, &steps)?;
                Readout::Late(steps_not_in_graph(steps, chosen.width, &chosen.name)?)
            }
            (Task::Rerank, Part::Tokens) => match self.yes_no {
                Some((yes, no)) => {
                    self.require_token(yes.max(no.unwrap_or(0)), chosen)?;
                    Readout::YesNo { yes, no }
                }
                None => {
                    return Err(contract(format!(
                        "{}: output {} has one row per token; a reranker that answers with a token \
                         needs true_token and template in onnxd.toml",
                        self.file, chosen.name
                    )));
                }
            },
            (Task::Rerank, Part::Texts) => self.pair(chosen, guesses)?,
            (Task::Classify, Part::Texts) => Readout::Stepped(Vec::new()),
            (Task::TokenClassify, Part::Tokens) => Readout::Tokens,
            (task, _) => {
                let (name, task) = (&chosen.name, task.as_str());
                return Err(contract(format!(
                    "{}: output {name} does not fit the task {task}; set output or task in \
                     onnxd.toml",
                    self.file
                )));
            }
        })
    }

    /// Checks that the output has a logit for a token that means yes or no.
    fn require_token(&self, token: usize, chosen: &Chosen) -> Result<(), Refusal> {
        match chosen.width {
            Some(width) if token >= width => Err(contract(format!(
                "1_LogitScore/config.json or onnxd.toml: the token id {token} for yes or no is out \
                 of range: output {} of {} has logits for {width} tokens",
                chosen.name, self.file
            ))),
            _ => Ok(()),
        }
    }

    /// Returns the pooling that the files set, or the one assumed for the architecture.
    fn pooling(&self, route: &Route, guesses: &mut Vec<Guess>) -> Result<Pooling, Refusal> {
        match &route.pooling {
            Some(pooling) if pooling.is_none() => Err(contract(
                "onnxd.toml: pooling = \"none\" is not possible: the graph's output has one vector \
                 per token; set a pooling mode",
            )),
            Some(pooling) => Ok(pooling.clone()),
            None => {
                let (mode, reason): (PoolingMode, String) = assume::pooling(&self.files.config)?;
                guesses.push(guess("pooling", mode.as_str(), reason));
                Ok(mode.into())
            }
        }
    }

    /// Returns the steps that are still needed after a finished vector, judging by its width.
    fn unfinished(
        &self,
        route: &Route,
        chosen: &Chosen,
        guesses: &mut Vec<Guess>,
    ) -> Result<Vec<LoadedStep>, Refusal> {
        let (file, name) = (self.file, &chosen.name);
        if self.files.model_config.pooling.is_some() {
            return Err(contract(format!(
                "onnxd.toml: pooling: {file} has no token vectors to pool, because {name} is \
                 already pooled; remove the key"
            )));
        }
        if route.without_prompt {
            return Err(contract(format!(
                "{file}: {name} is pooled with the prompt, but include_prompt of the pooling \
                 module is false; export the graph with last_hidden_state"
            )));
        }
        // Exports that contain these modules often leave out their folders. A folder that exists has
        // to be complete.
        let is_left_out = |step: &&Step| match step {
            Step::Dense(module) | Step::LayerNorm(module) => {
                !self.files.dir.join(&module.path).is_dir()
            }
            Step::Normalize => false,
        };
        if let Some(Step::Dense(module) | Step::LayerNorm(module)) =
            route.steps.iter().find(is_left_out)
        {
            let reason =
                format!("{} is missing, so {name} is assumed to contain its module", module.path);
            if self.files.model_config.output.is_none() {
                guesses.push(guess("output", name, reason));
            }
            return Ok(Vec::new());
        }
        let steps = LoadedStep::read(self.files.dir, &route.steps)?;
        let last = steps.iter().rev().find_map(LoadedStep::outputs);
        match chosen.width {
            Some(width) if last.is_some() && last != Some(width) => {
                check_widths(&steps, chosen.width, name)?;
                Ok(steps)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Returns the steps after a text vector that the graph does not contain.
    fn remaining(
        &self,
        route: &Route,
        chosen: &Chosen,
        guesses: &mut Vec<Guess>,
    ) -> Result<Vec<LoadedStep>, Refusal> {
        let steps = LoadedStep::read(self.files.dir, &route.steps)?;
        let (first, last) = (
            steps.iter().find_map(LoadedStep::inputs),
            steps.iter().rev().find_map(LoadedStep::outputs),
        );
        if let (Some(first), Some(width)) = (first, chosen.width)
            && first == width
            && last == Some(width)
            && self.files.model_config.output.is_none()
        {
            let reason = format!(
                "the sizes do not show whether {} already includes the dense modules",
                chosen.name
            );
            guesses.push(guess("output", &chosen.name, reason));
        }
        steps_not_in_graph(steps, chosen.width, &chosen.name)
    }

    /// Reads one score, or determines which of two labels marks a relevant document.
    fn pair(&self, chosen: &Chosen, guesses: &mut Vec<Guess>) -> Result<Readout, Refusal> {
        let labels = &self.settings.labels;
        let width = chosen.width.or((!labels.is_empty()).then_some(labels.len()));
        match width {
            None | Some(1) => Ok(Readout::Stepped(Vec::new())),
            Some(2) => {
                let configured = self.files.model_config.relevant_label.map(|label| label as usize);
                if configured.is_some_and(|label| label > 1) {
                    return Err(contract("onnxd.toml: relevant_label: expected 0 or 1"));
                }
                let yes = match configured.or_else(|| task::relevant(labels).map(|found| found.0)) {
                    Some(yes) => yes,
                    None => {
                        let reason = "the names of its two labels do not show which one means \
                                      relevant";
                        guesses.push(guess("relevant_label", 1, reason));
                        1
                    }
                };
                Ok(Readout::Pair { yes, no: 1 - yes })
            }
            Some(width) => Err(contract(format!(
                "{} has {width} scores, but a reranker has one or two; set task = \"classify\" in \
                 onnxd.toml",
                self.file
            ))),
        }
    }
}

/// Creates the setting of one switch for a request.
pub(super) fn switch(facts: &SwitchFacts, value: i64) -> Switch {
    Switch { name: facts.name.clone(), value: SwitchValue::Number(value) }
}
