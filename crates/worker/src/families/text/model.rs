//! A loaded model for texts: its session, tokenizer and settings, ready to embed texts or to score
//! them. Serving and checking load models in this one way, so that what was checked is what serves.

use std::{path::Path, sync::Arc, time::Duration};

use onnxd_proto::{
    domain::{Pooling, Refusal, RefusalKind, Task},
    wire::ask::{Rejection, Side},
};
use tracing::warn;

use crate::{
    artifacts::{
        compiled::{self, Key},
        costs::Costs,
        probes::Probes,
    },
    families::{
        loaded::model_in,
        text::{
            config::{self, Settings},
            pooling,
            tokenize::{Text, Token, Tokenizer, Tokens},
            wide::{self, Wide},
        },
    },
    process::cpu_time::CpuTime,
    serving::ahead::Later,
    session::{self, Form, Head, Runtime, Session, SessionError},
};

/// A loaded model for texts.
pub(crate) struct TextModel {
    session: Session,
    tokenizer: Tokenizer,
    settings: Settings,
    model_file: &'static str,
    form: Form,
    costs: Costs,
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
    /// Loads the version in `dir` as it serves, warm: from its compiled forms below `compiled`
    /// if there is a sound one, else as its author made it.
    pub(crate) fn open_to_serve(
        runtime: &Arc<Runtime>,
        dir: &Path,
        compiled: &Path,
        key: &Key,
        helpers: &Arc<[u16]>,
    ) -> Result<Self, Refusal> {
        match Self::open_warm(runtime, dir, compiled, key, helpers) {
            Ok(Some(version)) => return Ok(version),
            Ok(None) => {}
            Err(refusal) => warn!(%refusal, "the plain model is loaded, not its compiled form"),
        }
        let mut version = Self::open(runtime, dir)?;
        version.warm_up()?;
        Ok(version)
    }

    /// The compiled form, if there is one. What it is compared by warms it, too.
    fn open_warm(
        runtime: &Arc<Runtime>,
        dir: &Path,
        compiled: &Path,
        key: &Key,
        helpers: &Arc<[u16]>,
    ) -> Result<Option<Self>, Refusal> {
        let Some(model) = compiled::find(compiled, key) else { return Ok(None) };
        let expected = Probes::read(compiled).ok_or_else(|| {
            RefusalKind::Checksum.because("there is nothing to compare the compiled model with")
        })?;
        let mut version = Self::open_compiled(runtime, dir, &model)?;
        expected.require(&Probes::measure_at_load(&mut version)?, version.model_file)?;
        // Without them each text runs alone until runs have been observed.
        version.costs = model.parent().and_then(Costs::read).unwrap_or_default();
        if !helpers.is_empty() {
            let (runtime, helpers) = (Arc::clone(runtime), Arc::clone(helpers));
            let head = version.head();
            version.wide_making = Some(wide::Making { runtime, model, head, helpers });
        }
        Ok(Some(version))
    }

    /// Loads the version in `dir`.
    pub(crate) fn open(runtime: &Runtime, dir: &Path) -> Result<Self, Refusal> {
        let (model_file, model) = model_in(dir)?;
        Self::open_form(runtime, dir, &model, model_file, Form::Plain)
    }

    /// Loads the version in `dir` with the compiled `model` in the place of its own.
    pub(crate) fn open_compiled(
        runtime: &Runtime,
        dir: &Path,
        model: &Path,
    ) -> Result<Self, Refusal> {
        Self::open_form(runtime, dir, model, "the compiled model", Form::Compiled)
    }

    /// What costs least to find wrong is looked at first.
    fn open_form(
        runtime: &Runtime,
        dir: &Path,
        model: &Path,
        model_file: &'static str,
        form: Form,
    ) -> Result<Self, Refusal> {
        let mut settings = config::read(dir)?;
        let tokenizer = Tokenizer::open(dir, settings.max_tokens)?;
        let head = head_of(settings.task);
        let session =
            Session::open(runtime, model, form, head).map_err(|error| error.refuse(model_file))?;
        if session.is_pooled() {
            settings.pooling = Pooling::None;
        }
        Ok(Self {
            session,
            tokenizer,
            settings,
            model_file,
            form,
            costs: Costs::default(),
            wide: Wide::default(),
            wide_making: None,
            dimension: 0,
        })
    }

    fn head(&self) -> Head {
        head_of(self.settings.task)
    }

    /// Whether the compiled form is loaded.
    pub(crate) fn is_compiled(&self) -> bool {
        self.form == Form::Compiled
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
        let how = (rows, self.settings.pooling);
        let pad_id = self.tokenizer.pad_id();
        self.dimension = run(&mut self.session, how, pad_id, texts, embeddings)?;
        Ok(self.dimension)
    }

    /// The same, and learns from it what such a run costs. Gives the CPU time, too.
    pub(crate) fn embed_observed(
        &mut self,
        texts: &[&Tokens],
        rows: Rows,
        embeddings: &mut Vec<f32>,
    ) -> Result<(usize, Duration), SessionError> {
        let begun = CpuTime::now();
        let dimension = self.embed(texts, rows, embeddings)?;
        let took = begun.elapsed();
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        self.costs.table.observe(texts.len(), longest, took.as_secs_f32() * 1e6);
        Ok((dimension, took))
    }

    /// The same on several CPUs, if there is a session for that yet.
    pub(crate) fn embed_wide(
        &mut self,
        texts: &[&Tokens],
        rows: Rows,
        embeddings: &mut Vec<f32>,
    ) -> Option<usize> {
        let (how, pad_id) = ((rows, self.settings.pooling), self.tokenizer.pad_id());
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

    /// What runs cost.
    pub(crate) fn costs(&self) -> &Costs {
        &self.costs
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
    (rows, how): (Rows, Pooling),
    pad_id: i64,
    texts: &[&Tokens],
    embeddings: &mut Vec<f32>,
) -> Result<usize, SessionError> {
    embeddings.clear();
    session.run(texts, pad_id, |output| {
        let lengths = texts.iter().map(|text| text.ids.len());
        let shape = (output.rows, output.dimension);
        match rows {
            Rows::Pooled => pooling::pool(how, output.values, shape, lengths, embeddings),
            Rows::Tokens => pooling::keep(output.values, shape, lengths, embeddings),
        }
        output.dimension
    })
}
