//! Turns a request's text into tokens: prompts, the route of a router, switch values, pair
//! templates, and the prefixes of late interaction. Called by [`super::answer`], and to try a
//! model.

use std::borrow::Cow;

use onnxd_proto::{
    domain::{Refusal, Task},
    wire::operation::{PairCut, Rejection, Role, Side, Switch},
};

use super::{
    files::{
        Files,
        config::Settings,
        model2vec::Model2Vec,
        plan::{Plan, Route, Source},
        prompts::{Prompts, role_of},
    },
    interaction::LateTokens,
    stages::entities::Piece,
    switches::Switches,
    template::Template,
    tokenize::{Text, Tokenizer},
};
use crate::session::Tokens;

/// The input with the segment ids of a pair, as transformers names it.
const TYPES: &str = "token_type_ids";

/// One text of a request, with its options.
#[derive(Clone, Debug)]
pub(crate) struct TextRequest<'a> {
    pub(crate) content: Content<'a>,
    /// The name of a prompt.
    pub(crate) prompt: Option<&'a str>,
    pub(crate) role: Option<Role>,
    pub(crate) switches: &'a [Switch],
    /// The end at which an overlong text is cut. `None`: it is rejected.
    pub(crate) truncate: Option<Side>,
}

/// The input.
#[derive(Clone, Debug)]
pub(crate) enum Content<'a> {
    Text(&'a str),
    Pair(&'a str, &'a str, PairCut),
    Ids(Vec<u32>),
}

impl<'a> TextRequest<'a> {
    /// A text with default options, cut at its end if too long.
    pub(crate) fn text(text: &'a str) -> Self {
        let (content, truncate) = (Content::Text(text), Some(Side::Right));
        Self { content, prompt: None, role: None, switches: &[], truncate }
    }

    /// A pair of texts, cut if too long.
    pub(crate) fn pair(first: &'a str, second: &'a str) -> Self {
        Self { content: Content::Pair(first, second, PairCut::Longest), ..Self::text("") }
    }
}

/// A text that is ready to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) tokens: Tokens,
    /// The index of its route.
    pub(crate) route: usize,
    /// The values of the graph's switches.
    pub(crate) switches: Vec<i64>,
    /// The number of leading tokens to leave out of pooling.
    pub(crate) unpooled: usize,
    /// Which token vectors to keep, for late interaction.
    pub(crate) kept: Vec<bool>,
    /// The tokens of the text itself, for token classification.
    pub(crate) pieces: Vec<Piece>,
}

impl Prepared {
    /// Returns the first `length` tokens.
    pub(crate) fn cut(&self, length: usize) -> Self {
        let mut cut = Self { tokens: self.tokens.cut(length), ..self.clone() };
        cut.kept.truncate(length);
        cut.unpooled = cut.unpooled.min(length);
        cut.pieces.retain(|piece| piece.index < length);
        cut
    }
}

/// Turns texts into tokens.
#[derive(Debug)]
pub(crate) struct Preparation {
    task: Task,
    plan: Plan,
    prompts: Prompts,
    pub(crate) switches: Switches,
    /// One tokenizer per route.
    tokenizers: Vec<Tokenizer>,
    /// The end at which the model cuts texts.
    side: Side,
    /// Whether the texts of a pair have different type ids.
    has_types: bool,
    late: Option<LateTokens>,
    template: Option<Template>,
    /// Set for a model2vec table, which drops unknown tokens. It first cuts a text to this many
    /// characters for each token of its limit.
    token_chars: Option<usize>,
}

impl Preparation {
    /// Combines the parts.
    ///
    /// # Errors
    /// The vocabulary lacks a token that the files name.
    pub(crate) fn new(
        files: &Files<'_>,
        settings: &Settings,
        tokenizers: Vec<Tokenizer>,
        switches: Switches,
        template: Option<Template>,
    ) -> Result<Self, Refusal> {
        let late = match &settings.late {
            Some(late) => Some(LateTokens::new(files, late.clone(), &tokenizers[0])?),
            None => None,
        };
        let model2vec = Model2Vec::read(files.dir)?;
        let token_chars = model2vec.map(|_| tokenizers[0].median_token_chars());
        let configured_side: Option<String> = files.tokenizer.get("truncation_side")?;
        let side = match configured_side.as_deref() {
            Some("left") => Side::Left,
            Some(_) => Side::Right,
            None => tokenizers[0].declared_side(),
        };
        let inputs: Option<Vec<String>> = files.tokenizer.get("model_input_names")?;
        let has_types = inputs.is_none_or(|names| names.iter().any(|name| name == TYPES));
        Ok(Self {
            side,
            has_types,
            task: settings.task,
            plan: settings.plan.clone(),
            prompts: settings.prompts.clone(),
            switches,
            tokenizers,
            late,
            template,
            token_chars,
        })
    }

    /// Returns the tokenizer of the default route.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizers[self.plan.default]
    }

    /// Limits texts to this length. Tables have no limit.
    pub(crate) fn limit(&mut self, max_tokens: u32) {
        for (tokenizer, route) in self.tokenizers.iter_mut().zip(&self.plan.routes) {
            if route.source == Source::Graph {
                *tokenizer = tokenizer.with_max(max_tokens);
            }
        }
    }

    /// Tokenizes an input.
    ///
    /// # Errors
    /// The text is too long and must not be cut, the model lacks what is requested, or the
    /// tokenizer fails.
    pub(crate) fn prepare(&self, request: &TextRequest<'_>) -> Result<Prepared, Rejection> {
        let truncate =
            request.truncate.map(|side| if side == Side::Model { self.side } else { side });
        let request = &TextRequest { truncate, ..request.clone() };
        let prompt = self.prompt(request)?;
        let name = prompt.or(request.prompt);
        if !self.plan.has_route(request.role, request.prompt) {
            let routes: Vec<&str> =
                self.plan.routes.iter().map(|route| route.name.as_str()).collect();
            let routes = routes.join(", ");
            return Err(Rejection::Unfit(format!(
                "the model has no route for this side of a search; set `prompt_name` to one of: \
                 {routes}"
            )));
        }
        // The default prompt is put before texts and does not imply a side.
        let route = self.plan.route(request.role, request.prompt);
        let switches = self.switches.resolve(request.switches, name)?;
        let text = prompt.and_then(|name| self.prompts.named.get(name));
        let text = text.filter(|text| !text.is_empty()).map(String::as_str);
        let side = request.prompt.and_then(role_of).or(request.role).unwrap_or(Role::Document);
        let tokenizer = &self.tokenizers[route];
        let prepared = match &request.content {
            Content::Ids(_) if request.prompt.is_some() => {
                return Err(Rejection::Tokenizer(
                    "`prompt_name` applies to texts, not to token ids".into(),
                ));
            }
            Content::Ids(ids) => {
                let mut prepared =
                    self.plain(tokenizer, &Text::Ids(ids.clone()), request.truncate)?;
                prepared.kept = vec![true; prepared.tokens.ids.len()];
                prepared
            }
            Content::Pair(first, second, cut) => match &self.template {
                Some(template) => filled(template, tokenizer, (first, second), request.truncate)?,
                None => {
                    // Cross-encoders expect the prompt before the first text.
                    let first: Cow<'_, str> = match self.default_of_pairs() {
                        Some(prompt) => format!("{prompt}{first}").into(),
                        None => (*first).into(),
                    };
                    let pair = Text::Pair(&first, second, *cut);
                    self.plain(tokenizer, &pair, request.truncate)?
                }
            },
            Content::Text(_) if self.template.is_some() => {
                return Err(Rejection::Unfit(
                    "the model needs a query and a document: provide both".into(),
                ));
            }
            Content::Text(content) => {
                let content: Cow<'_, str> = match text {
                    Some(prompt) => format!("{prompt}{content}").into(),
                    None => (*content).into(),
                };
                self.text(route, &content, (text, side), request.truncate)?
            }
        };
        let mut prepared = Prepared { route, switches, ..prepared };
        if !self.has_types {
            prepared.tokens.type_ids.fill(0);
        }
        Ok(prepared)
    }

    /// Returns the prompt that goes before the first text of a pair.
    fn default_of_pairs(&self) -> Option<&str> {
        let name = self.prompts.default.as_ref().filter(|_| self.task == Task::Rerank)?;
        self.prompts.named.get(name).map(String::as_str).filter(|prompt| !prompt.is_empty())
    }

    fn text(
        &self,
        route: usize,
        content: &str,
        (prompt, role): (Option<&str>, Role),
        truncate: Option<Side>,
    ) -> Result<Prepared, Rejection> {
        let tokenizer = &self.tokenizers[route];
        if self.task == Task::TokenClassify {
            let (tokens, pieces) = tokenizer.encode_pieces(content, truncate)?;
            return Ok(Prepared { tokens, pieces, ..Prepared::default() });
        }
        if let Some(late) = &self.late {
            return late.prepare(tokenizer, content, role, truncate);
        }
        let source = &self.plan.routes[route];
        if source.source != Source::Graph {
            return self.bare(tokenizer, content, truncate);
        }
        let mut prepared = self.plain(tokenizer, &Text::One(content), truncate)?;
        if let (true, Some(prompt)) = (source.without_prompt, prompt) {
            let prompt_tokens = tokenizer.prompt_tokens(prompt)?;
            prepared.unpooled = prompt_tokens.min(prepared.tokens.ids.len());
        }
        Ok(prepared)
    }

    fn plain(
        &self,
        tokenizer: &Tokenizer,
        text: &Text<'_>,
        truncate: Option<Side>,
    ) -> Result<Prepared, Rejection> {
        let tokens = tokenizer.encode(text, truncate)?;
        Ok(Prepared { tokens, ..Prepared::default() })
    }

    /// Tables use no special tokens, and a text without tokens becomes a zero vector.
    fn bare(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        truncate: Option<Side>,
    ) -> Result<Prepared, Rejection> {
        let max = tokenizer.max_tokens() as usize;
        let chars = self.token_chars.filter(|_| truncate == Some(Side::Right));
        let end = chars.and_then(|chars| text.char_indices().nth(chars.saturating_mul(max)));
        let mut ids = tokenizer.bare(end.map_or(text, |(end, _)| &text[..end]))?;
        if ids.len() > max {
            match truncate {
                Some(Side::Right | Side::Model) => ids.truncate(max),
                Some(Side::Left) => drop(ids.drain(..ids.len() - max)),
                None => return Err(tokenizer.too_many(ids.len())),
            }
        }
        if self.token_chars.is_some() {
            let unknown = tokenizer.unknown_id().map(i64::from);
            ids.retain(|&id| Some(id) != unknown);
        }
        let type_ids = vec![0; ids.len()];
        Ok(Prepared { tokens: Tokens::new(ids, type_ids), ..Prepared::default() })
    }

    /// Returns the name of the prompt that goes before a text.
    fn prompt<'p>(&'p self, request: &TextRequest<'p>) -> Result<Option<&'p str>, Rejection> {
        if !matches!(self.task, Task::Embed | Task::Sparse | Task::MultiVector) {
            return Ok(None);
        }
        if let Some(name) = request.prompt {
            return match self.prompts.named.contains_key(name) || self.is_side(name) {
                true => Ok(Some(name)),
                false => Err(self.unknown(name)),
            };
        }
        let word = Switches::word(request.switches);
        let of_word = word.filter(|word| self.prompts.named.contains_key(*word));
        let for_role = request.role.and_then(|role| self.prompts.for_role(role));
        Ok(of_word.or(for_role).or(self.prompts.default.as_deref()))
    }

    /// Returns whether a name is a side of a search that this model distinguishes without a prompt.
    fn is_side(&self, name: &str) -> bool {
        let is = |route: &Route| {
            route.name == name
                || role_of(name).is_some_and(|role| role_of(&route.name) == Some(role))
        };
        let is_route = self.plan.routes.len() > 1 && self.plan.routes.iter().any(is);
        is_route || self.late.is_some() && role_of(name).is_some()
    }

    fn unknown(&self, name: &str) -> Rejection {
        let named = self.prompts.named.keys().map(String::as_str);
        let routes = self.plan.routes.iter().map(|route| route.name.as_str());
        let mut known: Vec<&str> = named.chain(routes).filter(|name| !name.is_empty()).collect();
        known.sort_unstable();
        known.dedup();
        Rejection::Prompt { name: name.into(), known: known.join(", ") }
    }

    /// Returns a text with the named prompt, or the default one, before it.
    ///
    /// # Errors
    /// The model has no prompt of this name.
    pub(crate) fn prompted<'t>(
        &self,
        text: &'t str,
        name: Option<&str>,
    ) -> Result<Cow<'t, str>, Rejection> {
        let request = TextRequest { prompt: name, ..TextRequest::text(text) };
        let prompt = self.prompt(&request)?.and_then(|name| self.prompts.named.get(name));
        Ok(match prompt {
            Some(prompt) => format!("{prompt}{text}").into(),
            None => text.into(),
        })
    }
}

/// Tokenizes a pair with the template. The template's end is never cut off.
fn filled(
    template: &Template,
    tokenizer: &Tokenizer,
    (query, document): (&str, &str),
    truncate: Option<Side>,
) -> Result<Prepared, Rejection> {
    let mut text = template.fill(query, document);
    text.push_str(template.end());
    let mut ids = tokenizer.bare(&text)?;
    let max = tokenizer.max_tokens() as usize;
    if ids.len() > max {
        if truncate.is_none() {
            return Err(tokenizer.too_many(ids.len()));
        }
        let end = tokenizer.bare(template.end())?;
        let kept = max.saturating_sub(end.len());
        if kept == 0 {
            return Err(tokenizer.too_many(ids.len()));
        }
        let from = ids.len() - end.len();
        ids.truncate(kept.min(from));
        ids.extend(end);
    }
    if ids.is_empty() {
        return Err(Rejection::Tokenizer("the pair has no tokens".into()));
    }
    let type_ids = vec![0; ids.len()];
    Ok(Prepared { tokens: Tokens::new(ids, type_ids), ..Prepared::default() })
}
