//! A loaded model for texts: its session, tokenizer and settings, ready to embed texts or to score
//! them. What serving and checking do with it is in the other files of this folder.

use onnxd_proto::{
    domain::{Pooling, Refusal, RefusalKind, Task},
    wire::ask::{Rejection, Side},
};
use tracing::warn;

use super::{
    config::{self, Settings},
    pooling,
    tokenize::{Text, Token, Tokenizer},
    wide::{self, Wide},
};
use crate::{
    families::family::{Helpers, Later, Opening},
    session::{self, Head, Session, SessionError, Tokens},
};

/// A loaded model for texts.
pub(crate) struct TextModel {
    session: Session,
    tokenizer: Tokenizer,
    settings: Settings,
    /// Tokens of the longest text, as the files say.
    declared_tokens: u32,
    model_file: &'static str,
    wide: Wide,
    /// What is still to be made in the background.
    wide_making: Option<wide::Making>,
    /// Components of one embedding, or labels; 0 before the first run.
    dimension: usize,
}

/// What is wanted of the output of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// One row for each text.
    Pooled,
    /// One row for each token.
    Tokens,
}

impl TextModel {
    /// Opens a model. What costs least to find wrong is looked at first.
    ///
    /// # Errors
    /// A file is malformed, or the model is not one for texts.
    pub(crate) fn open(opening: &Opening<'_>) -> Result<Self, Refusal> {
        let Opening { runtime, dir, own, model, file, form } = *opening;
        let mut settings = config::read(dir, own)?;
        let tokenizer = Tokenizer::open(dir, settings.max_tokens)?;
        let head = head_of(settings.task);
        let session =
            Session::open(runtime, model, form, head).map_err(|error| error.refuse(file))?;
        if session.is_pooled() {
            settings.pooling = Pooling::NONE;
        }
        Ok(Self {
            session,
            tokenizer,
            declared_tokens: settings.max_tokens,
            settings,
            model_file: file,
            wide: Wide::default(),
            wide_making: None,
            dimension: 0,
        })
    }

    /// Has these CPUs help with requests that are alone, once a session is made for that.
    pub(super) fn offer_helpers(&mut self, helpers: &Helpers<'_>) {
        let head = head_of(self.settings.task);
        let (runtime, model) = (helpers.runtime.clone(), helpers.model.to_owned());
        let helpers = helpers.cpus.clone();
        self.wide_making = Some(wide::Making { runtime, model, head, helpers });
    }

    /// Runs a short text, so that the first request finds all weights in memory. The longest one
    /// would take as long as loading, and saves a long first request only a few percent.
    pub(crate) fn warm_up(&mut self) -> Result<(), Refusal> {
        self.try_shape(1, self.settings.max_tokens.min(8), 0).map(drop)
    }

    /// Runs `texts` texts of `tokens` tokens that all are `id`; gives the embeddings as pooled
    /// and their number of components.
    pub(crate) fn try_shape(
        &mut self,
        texts: usize,
        tokens: u32,
        id: u32,
    ) -> Result<(Vec<f32>, usize), Refusal> {
        let tokens = usize::try_from(tokens).expect("a u32 fits on every CPU that onnxd runs on");
        let text = Tokens { ids: vec![id.into(); tokens], type_ids: vec![0; tokens] };
        let mut embeddings = Vec::new();
        match self.embed(&vec![&text; texts], Rows::Pooled, &mut embeddings) {
            Ok(dimension) => Ok((embeddings, dimension)),
            Err(error) => {
                let file = self.model_file;
                Err(error.refuse(&format!("{file} fails with {texts} texts of {tokens} tokens")))
            }
        }
    }

    /// Embeds one text, cut to what the model takes; as pooled and not normalized.
    pub(crate) fn embed_text(&mut self, text: &str) -> Result<Vec<f32>, Refusal> {
        let tokens = self.tokenize(&Text::One(text), Some(Side::Right)).map_err(|rejection| {
            RefusalKind::Contract.because(format!("tokenizer.json fails on a text: {rejection:?}"))
        })?;
        let mut embedding = Vec::new();
        match self.embed(&[&tokens], Rows::Pooled, &mut embedding) {
            Ok(_) => Ok(embedding),
            Err(error) => Err(error.refuse(&format!("{} fails on a text", self.model_file))),
        }
    }

    /// See [`Session::release_memory`].
    pub(super) fn release_memory(&mut self) -> Result<(), SessionError> {
        self.session.release_memory()
    }

    /// Takes no longer texts than this from now on, and none that are longer than the files say.
    pub(crate) fn limit_tokens(&mut self, max_tokens: u32) {
        self.settings.max_tokens = self.declared_tokens.min(max_tokens);
        self.tokenizer.limit(self.settings.max_tokens);
    }

    /// See [`Tokenizer::encode`].
    pub(crate) fn tokenize(
        &self,
        text: &Text<'_>,
        truncate: Option<Side>,
    ) -> Result<Tokens, Rejection> {
        self.tokenizer.encode(text, truncate)
    }

    /// The text after the prompt of this name, or after the default one.
    pub(crate) fn prompted<'t>(
        &self,
        text: &'t str,
        name: Option<&str>,
    ) -> Result<Text<'t>, Rejection> {
        let prompts = &self.settings.prompts;
        let Some(name) = name.or(prompts.default.as_deref()) else { return Ok(Text::One(text)) };
        match prompts.named.get(name) {
            Some(prompt) => Ok(Text::Prompted(format!("{prompt}{text}"))),
            None => {
                let known: Vec<&str> = prompts.named.keys().map(String::as_str).collect();
                Err(Rejection::Prompt { name: name.into(), known: known.join(", ") })
            }
        }
    }

    /// See [`Tokenizer::list`].
    pub(crate) fn list(&self, text: &str, special: bool) -> Result<Vec<Token>, Rejection> {
        self.tokenizer.list(text, special)
    }

    /// See [`Tokenizer::decode`].
    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Rejection> {
        self.tokenizer.decode(ids, skip_special)
    }

    /// Writes one embedding per text, or its scores, or one embedding per token to `embeddings`, as
    /// the model gives them and not normalized; gives their number of components. The texts are
    /// padded to the longest.
    pub(crate) fn embed(
        &mut self,
        texts: &[&Tokens],
        rows: Rows,
        embeddings: &mut Vec<f32>,
    ) -> Result<usize, SessionError> {
        let how = (rows, &self.settings.pooling);
        let pad_id = self.tokenizer.pad_id();
        self.dimension = run(&mut self.session, how, pad_id, texts, embeddings)?;
        Ok(self.dimension)
    }

    /// The same on several CPUs, if there is a session for that yet.
    pub(crate) fn embed_wide(
        &mut self,
        texts: &[&Tokens],
        rows: Rows,
        embeddings: &mut Vec<f32>,
    ) -> Option<usize> {
        let (how, pad_id) = ((rows, &self.settings.pooling), self.tokenizer.pad_id());
        let mut wide = self.wide.get()?;
        let result = wide.as_mut().map(|session| run(session, how, pad_id, texts, embeddings))?;
        drop(wide);
        match result {
            Ok(dimension) => Some(dimension),
            // The other session ends at once, too.
            Err(_) if session::is_terminated() => None,
            Err(error) => {
                warn!(%error, "the wide session failed and is given up");
                self.wide.give_up();
                None
            }
        }
    }

    /// What is to be made in the background, once.
    pub(crate) fn take_later(&mut self) -> Option<Later> {
        self.wide_making.take().map(|making| self.wide.later(making))
    }

    /// Components of one embedding, or labels; 0 before the first run.
    pub(crate) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Whether the model pools by itself, so that there are no embeddings of tokens.
    pub(crate) fn is_pooled(&self) -> bool {
        self.session.is_pooled()
    }

    /// Whether the model can be told what is padding.
    pub(crate) fn is_masked(&self) -> bool {
        self.session.is_masked()
    }

    /// The version's settings, with the pooling that is used in fact.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// See [`Tokenizer::highest_id`].
    pub(crate) fn highest_id(&self) -> u32 {
        self.tokenizer.highest_id()
    }

    /// The model's file, for messages.
    pub(crate) fn model_file(&self) -> &'static str {
        self.model_file
    }
}

fn head_of(task: Task) -> Head {
    if task == Task::Embed { Head::Embeddings } else { Head::Scores }
}

fn run(
    session: &mut Session,
    (rows, how): (Rows, &Pooling),
    pad_id: i64,
    texts: &[&Tokens],
    embeddings: &mut Vec<f32>,
) -> Result<usize, SessionError> {
    embeddings.clear();
    session.run(texts, pad_id, |output| {
        let (rows_each, dimension) = (output.rows, output.dimension);
        let values = output.values.chunks_exact(rows_each * dimension);
        for (tokens, text) in values.zip(texts) {
            let length = text.ids.len();
            match rows {
                Rows::Pooled if how.is_none() => {
                    embeddings.extend_from_slice(&tokens[..dimension]);
                }
                Rows::Pooled => {
                    pooling::pool(how.modes(), tokens, dimension, 0..length, embeddings);
                }
                Rows::Tokens => embeddings.extend_from_slice(&tokens[..length * dimension]),
            }
        }
        output.dimension
    })
}
