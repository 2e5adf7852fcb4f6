//! A version that has been loaded: its model, tokenizer and settings, ready to embed texts.
//! Serving and checking load versions in this one way, so that what was checked is what serves.

use std::path::Path;

use onnxd_proto::message::{Pooling, Refusal, RefusalKind, Rejection};

use crate::{
    config::{self, Settings},
    pooling,
    session::{Runtime, Session, SessionError},
    tokenize::{Tokenizer, Tokens},
};

/// Where the model may stand in a version's directory.
const MODEL_FILES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// A loaded version.
pub(crate) struct LoadedVersion {
    session: Session,
    tokenizer: Tokenizer,
    settings: Settings,
    model_file: &'static str,
}

impl LoadedVersion {
    /// Loads the version in `dir`. What costs least to find wrong is looked at first.
    pub(crate) fn open(runtime: &Runtime, dir: &Path) -> Result<Self, Refusal> {
        let Some(model_file) = MODEL_FILES.into_iter().find(|file| dir.join(file).is_file()) else {
            let message = format!("{} is missing", MODEL_FILES.join(" or "));
            return Err(RefusalKind::Contract.because(message));
        };
        let mut settings = config::read(dir)?;
        let tokenizer = Tokenizer::open(dir, settings.max_tokens)?;
        let session = Session::open(runtime, &dir.join(model_file))
            .map_err(|error| error.refuse(model_file))?;
        if session.is_pooled() {
            settings.pooling = Pooling::None;
        }
        Ok(Self { session, tokenizer, settings, model_file })
    }

    /// Runs a short and the longest input, so that the first request finds memory reserved.
    pub(crate) fn warm_up(&mut self) -> Result<(), Refusal> {
        for tokens in [8, self.settings.max_tokens] {
            self.try_shape(1, tokens.min(self.settings.max_tokens), 0)?;
        }
        Ok(())
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
        match self.embed(&vec![&text; texts], &mut embeddings) {
            Ok(dimension) => Ok((embeddings, dimension)),
            Err(error) => Err(RefusalKind::Contract.because(format!(
                "{} fails with {texts} texts of {tokens} tokens: {error}",
                self.model_file
            ))),
        }
    }

    /// See [`Tokenizer::encode`].
    pub(crate) fn tokenize(&self, text: &str, truncate: bool) -> Result<Tokens, Rejection> {
        self.tokenizer.encode(text, truncate)
    }

    /// Writes one embedding per text to `embeddings`, as pooled and not normalized; gives their
    /// number of components. The texts have equally many tokens.
    pub(crate) fn embed(
        &mut self,
        texts: &[&Tokens],
        embeddings: &mut Vec<f32>,
    ) -> Result<usize, SessionError> {
        let how = self.settings.pooling;
        embeddings.clear();
        self.session.run(texts, |output| {
            pooling::pool(how, output.values, output.tokens, output.dimension, embeddings);
            output.dimension
        })
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
