//! A loaded text model: tokenizers, the graph or tables, and the steps from their output to an
//! answer. The other files of this folder implement what serving and checking do with it.

use onnxd_proto::{
    domain::{Guess, Pooling, Refusal, RefusalKind, Task},
    wire::operation::Rejection,
};
use tracing::warn;

use super::{
    build::{self, Parts},
    files::config::Settings,
    matrices::{sparse_static::SparseStatic, static_table::StaticTable},
    prepare::{Preparation, Prepared, TextRequest},
    readout::{LoadedStep, Numbers, Readout, Rows},
    tokenize::Tokenizer,
    wide::{self, WideSession},
};
use crate::{
    families::family::{DeferredJob, Helpers, Opening},
    session::{self, Batch, Session, SessionError, Tokens},
};

/// Maximum output of one run, in numbers, for a graph with one number per token of the vocabulary.
const OUTPUT_NUMBERS_MAX: usize = 16 << 20;
/// Runs of up to this many tokens are never split by that limit.
const TOKENS_MIN: usize = 64;

/// A loaded text model.
pub(crate) struct TextModel {
    pub(super) settings: Settings,
    pub(super) preparation: Preparation,
    pub(super) session: Option<Session>,
    pub(super) routes: Vec<LoadedRoute>,
    /// Settings that were guessed from the files and the graph.
    pub(super) guesses: Vec<Guess>,
    /// The model's name in messages.
    file: String,
    /// The longest text that the files declare, in tokens.
    declared_tokens: u32,
    wide: WideSession,
    /// The pending background work.
    pending_wide: Option<wide::WideSpec>,
    /// Numbers in one vector, or labels; 0 before the first run.
    dimension: usize,
}

/// A loaded route.
#[derive(Debug)]
pub(super) struct LoadedRoute {
    pub(super) source: LoadedSource,
    /// Whether vectors are scaled to length 1 by default.
    pub(super) normalize: bool,
}

/// Converts tokens to numbers.
#[derive(Debug)]
pub(super) enum LoadedSource {
    /// The graph, with the readout of its output.
    Graph(Readout),
    /// One vector per token, then steps.
    Table(StaticTable, Vec<LoadedStep>),
    /// One weight per token.
    Weights(SparseStatic),
}

impl TextModel {
    /// Opens a model. The cheapest checks come first.
    ///
    /// # Errors
    /// A file is malformed, or the model is not a text model.
    pub(crate) fn open(opening: &Opening<'_>) -> Result<Self, Refusal> {
        let Parts { settings, preparation, session, routes, guesses } = build::build(opening)?;
        Ok(Self {
            declared_tokens: settings.max_tokens,
            settings,
            preparation,
            session,
            routes,
            guesses,
            file: opening.file.to_owned(),
            wide: WideSession::default(),
            pending_wide: None,
            dimension: 0,
        })
    }

    /// Lets these CPUs help with requests while the server is otherwise idle, once their session is
    /// ready.
    pub(super) fn offer_helpers(&mut self, helpers: &Helpers<'_>) {
        let Some(session) = &self.session else { return };
        let output = session.selected().to_owned();
        let (runtime, model) = (helpers.runtime.clone(), helpers.model.to_owned());
        let helpers = helpers.cpus.clone();
        self.pending_wide = Some(wide::WideSpec { runtime, model, output, helpers });
    }

    /// Runs a short text, so that the first request finds all weights in memory. The longest text
    /// would take as long as loading and speed up a long first request by only a few percent.
    pub(crate) fn warm_up(&mut self) -> Result<(), Refusal> {
        self.try_shape(1, self.settings.max_tokens.min(8), 0).map(drop)
    }

    /// Runs `texts` texts of `tokens` tokens each; all tokens are `id`.
    ///
    /// # Errors
    /// The model fails; the message names the shape.
    pub(crate) fn try_shape(
        &mut self,
        texts: usize,
        tokens: u32,
        id: u32,
    ) -> Result<Numbers, Refusal> {
        self.try_route(self.settings.plan.default, texts, tokens, id)
    }

    /// Like [`Self::try_shape`], on one route of a router.
    ///
    /// # Errors
    /// The model fails; the message names the shape.
    pub(crate) fn try_route(
        &mut self,
        route: usize,
        texts: usize,
        tokens: u32,
        id: u32,
    ) -> Result<Numbers, Refusal> {
        let text = Prepared { route, ..self.repeated_token(tokens, id) };
        let mut numbers = Numbers::default();
        match self.run(&vec![&text; texts], Rows::Pooled, &mut numbers) {
            Ok(()) => {
                self.dimension = self.row_len(&text, &numbers);
                Ok(numbers)
            }
            Err(error) => {
                let file = &self.file;
                Err(error.refuse(&format!(
                    "{file} fails with {texts} texts of {tokens} tokens (a graph must accept any \
                     number of both: export it with dynamic axes)"
                )))
            }
        }
    }

    /// Releases the memory of earlier runs by a run of one token, so that the needs of the next run
    /// can be measured.
    ///
    /// # Errors
    /// The model fails.
    pub(super) fn release_memory(&mut self) -> Result<(), Refusal> {
        let refuse = |error: SessionError| error.refuse("memory");
        let Some(session) = &mut self.session else { return Ok(()) };
        session.release_memory(true).map_err(refuse)?;
        let ran = self.try_shape(1, 1, 0);
        let Some(session) = &mut self.session else { return Ok(()) };
        session.release_memory(false).map_err(refuse)?;
        ran.map(drop)
    }

    fn repeated_token(&self, tokens: u32, id: u32) -> Prepared {
        let tokens = tokens as usize;
        Prepared {
            tokens: Tokens::new(vec![id.into(); tokens], vec![0; tokens]),
            route: self.settings.plan.default,
            switches: self.preparation.switches.any(),
            kept: vec![true; tokens],
            ..Prepared::default()
        }
    }

    /// Prepares an input, with some value for each switch that has none.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub(crate) fn prepare_any(&self, request: &TextRequest<'_>) -> Result<Prepared, Refusal> {
        let prepared = match self.preparation.prepare(request) {
            Err(Rejection::Unfit(_)) => {
                let switches =
                    self.preparation.switches.facts().iter().zip(self.preparation.switches.any());
                let set: Vec<_> =
                    switches.map(|(facts, value)| build::switch(facts, value)).collect();
                self.preparation.prepare(&TextRequest { switches: &set, ..request.clone() })
            }
            prepared => prepared,
        };
        prepared.map_err(|rejection| {
            let message = format!("cannot tokenize a text: {rejection:?}");
            RefusalKind::Contract.because(message)
        })
    }

    /// Returns the numbers of an input, cut to the model's limit and not normalized.
    ///
    /// # Errors
    /// The tokenizer or the model fails.
    pub(crate) fn run_one(&mut self, request: &TextRequest<'_>) -> Result<Vec<f32>, Refusal> {
        let prepared = self.prepare_any(request)?;
        let mut numbers = Numbers::default();
        match self.run(&[&prepared], Rows::Pooled, &mut numbers) {
            Ok(()) => {
                self.dimension = self.row_len(&prepared, &numbers);
                Ok(numbers.values)
            }
            Err(error) => Err(error.refuse(&format!("{} fails on a text", self.file))),
        }
    }

    /// Tokenizes an input.
    ///
    /// # Errors
    /// See [`Preparation::prepare`].
    pub(crate) fn prepare(&self, request: &TextRequest<'_>) -> Result<Prepared, Rejection> {
        self.preparation.prepare(request)
    }

    /// Runs texts of one route with the same switches and writes the model's output, not
    /// normalized. The texts are padded to the longest.
    ///
    /// # Errors
    /// ONNX Runtime fails, or the shape of its output contradicts the files.
    pub(crate) fn run(
        &mut self,
        texts: &[&Prepared],
        rows: Rows,
        numbers: &mut Numbers,
    ) -> Result<(), SessionError> {
        numbers.clear();
        let Some(first) = texts.first() else { return Ok(()) };
        let route = &self.routes[first.route];
        match (&route.source, &mut self.session) {
            (LoadedSource::Graph(readout), Some(session)) => {
                let fill = (self.preparation.tokenizer().pad_id(), self.settings.first_position);
                run(session, readout, (texts, fill), rows, numbers)?;
            }
            (LoadedSource::Graph(_), None) => {
                return Err(SessionError::Contract("the graph is not loaded".into()));
            }
            (LoadedSource::Table(table, steps), _) => look_up(table, steps, texts, numbers)?,
            (LoadedSource::Weights(weights), _) => weigh(weights, texts, numbers)?,
        }
        Ok(())
    }

    /// Like [`Self::run`], on several CPUs. Returns `None` if no session for that is ready.
    pub(crate) fn run_wide(
        &mut self,
        texts: &[&Prepared],
        rows: Rows,
        numbers: &mut Numbers,
    ) -> Option<()> {
        let LoadedSource::Graph(readout) = &self.routes[texts.first()?.route].source else {
            return None;
        };
        let fill = (self.preparation.tokenizer().pad_id(), self.settings.first_position);
        let mut wide = self.wide.get()?;
        numbers.clear();
        let result =
            wide.as_mut().map(|session| run(session, readout, (texts, fill), rows, numbers))?;
        drop(wide);
        match result {
            Ok(()) => Some(()),
            // Termination ends the other session at once as well.
            Err(_) if session::is_terminated() => None,
            Err(error) => {
                warn!(%error, "multi-CPU session failed; no longer using it");
                self.wide.discard();
                None
            }
        }
    }

    /// Returns the numbers in one vector, or the labels of one token, where a text has several.
    fn row_len(&self, text: &Prepared, numbers: &Numbers) -> usize {
        let rows = match self.settings.task {
            Task::MultiVector => text.kept.iter().filter(|kept| **kept).count(),
            Task::TokenClassify => text.tokens.ids.len(),
            _ => 1,
        };
        match rows {
            0 => self.dimension,
            rows => numbers.width() / rows,
        }
    }

    /// Returns the pending background work, once.
    pub(crate) fn take_deferred(&mut self) -> Option<DeferredJob> {
        self.pending_wide.take().map(|spec| self.wide.creation_task(spec))
    }

    /// Returns the numbers in one vector, or the labels; 0 before the first run.
    pub(crate) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Returns whether the model has token vectors.
    pub(crate) fn has_token_vectors(&self) -> bool {
        matches!(&self.routes[self.settings.plan.default].source, LoadedSource::Graph(readout) if readout.reads_tokens())
    }

    /// Returns whether this route has no graph, so that each text costs next to nothing.
    pub(crate) fn is_table(&self, route: usize) -> bool {
        !matches!(self.routes[route].source, LoadedSource::Graph(_))
    }

    /// Returns whether the graph takes an attention mask that excludes padding.
    pub(crate) fn is_masked(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.is_masked() && !session.keeps_last_alone())
    }

    /// Returns the limit of tokens per run of several texts, for models whose output may become
    /// large.
    pub(crate) fn tokens_max(&self) -> usize {
        let vocabulary = self.routes.iter().any(|route| {
            matches!(route.source, LoadedSource::Graph(Readout::Splade(_) | Readout::YesNo { .. }))
        });
        match self.session.as_ref().and_then(Session::width) {
            Some(width) if vocabulary && width > 0 => (OUTPUT_NUMBERS_MAX / width).max(TOKENS_MIN),
            _ => usize::MAX,
        }
    }

    /// Returns whether vectors of this route are scaled to length 1 by default.
    pub(crate) fn normalizes(&self, route: usize) -> bool {
        self.routes[route].normalize
    }

    /// Returns the pooling of the default route.
    pub(crate) fn pooling(&self) -> Pooling {
        match &self.routes[self.settings.plan.default].source {
            LoadedSource::Graph(Readout::Pooled { pooling, .. }) => pooling.clone(),
            _ => Pooling::NONE,
        }
    }

    /// Returns the version's settings.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Limits texts to this length, or to the declared length if that is shorter.
    pub(crate) fn limit_tokens(&mut self, max_tokens: u32) {
        self.settings.max_tokens = self.declared_tokens.min(max_tokens);
        self.preparation.limit(self.settings.max_tokens);
    }

    /// Returns the tokenizer of the default route.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        self.preparation.tokenizer()
    }

    /// Returns the name of the model's file, for messages.
    pub(crate) fn model_file(&self) -> &str {
        &self.file
    }
}

fn run(
    session: &mut Session,
    readout: &Readout,
    (texts, (pad_id, first_position)): (&[&Prepared], (i64, i64)),
    rows: Rows,
    numbers: &mut Numbers,
) -> Result<(), SessionError> {
    let tokens: Vec<&Tokens> = texts.iter().map(|text| &text.tokens).collect();
    let switches = &texts[0].switches;
    let batch = Batch { texts: &tokens, pad_id, first_position, switches };
    session.run(&batch, |output| readout.read(output, texts, rows, numbers))
}

fn look_up(
    table: &StaticTable,
    steps: &[LoadedStep],
    texts: &[&Prepared],
    numbers: &mut Numbers,
) -> Result<(), SessionError> {
    for text in texts {
        let start = numbers.values.len();
        let ids = narrow(&text.tokens.ids);
        table.mean(&ids, &mut numbers.values).map_err(unknown_token)?;
        numbers.apply(steps, start, table.dimension());
        numbers.end(start);
    }
    Ok(())
}

fn weigh(
    weights: &SparseStatic,
    texts: &[&Prepared],
    numbers: &mut Numbers,
) -> Result<(), SessionError> {
    for text in texts {
        let start = numbers.values.len();
        numbers.values.resize(start + weights.tokens(), 0.0);
        for (token, weight) in weights.weigh(&narrow(&text.tokens.ids)).map_err(unknown_token)? {
            numbers.values[start + token as usize] = weight;
        }
        numbers.end(start);
    }
    Ok(())
}

/// Converts ids, which come from a tokenizer as u32.
fn narrow(ids: &[i64]) -> Vec<u32> {
    ids.iter().map(|&id| u32::try_from(id).unwrap_or(u32::MAX)).collect()
}

fn unknown_token(rejection: Rejection) -> SessionError {
    SessionError::Input(match rejection {
        Rejection::TokenId { id, highest } => {
            format!("token id {id} is out of range for the table; the highest is {highest}")
        }
        other => format!("{other:?}"),
    })
}
