//! Calls on texts that give vectors, and to tokens and back. [`super::labels`] has those that give
//! scores and labels.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use onnxd_proto::{
    domain::{Output, Record, Task},
    wire::ask::{Ask, Want},
};
use tokio::task;

pub use onnxd_proto::wire::ask::{Role, Side, Switch, SwitchValue, Token};

pub use super::options::{Purpose, TextOptions};
use super::{
    Answer, Engine, EngineError, RequestContext,
    answer::Item,
    items::{check_length, id_bytes, items},
    options::check_prompt,
};
use crate::{dispatch::Input, models::registry::Model};

/// Tasks whose models have a tokenizer.
const TEXT_TASKS: [Task; 6] = Task::TEXT;
/// Bytes of JSON from workers beyond which reading it would delay other requests.
const READ_AT_ONCE_BYTES_MAX: usize = 256 * 1024;
/// How often a request is run again because the model changed while its purpose was worked out.
const ATTEMPTS_MAX: usize = 3;

/// A text, or the tokens that it has in the model's vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// A text.
    Text(String),
    /// Tokens as the model takes them, with those that it wants around a text.
    Ids(Vec<u32>),
}

/// A text to classify, or two that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextOrPair {
    /// A text.
    Text(String),
    /// Two texts.
    Pair(String, String),
}

/// Texts to embed.
#[derive(Clone, Debug)]
pub struct Embed {
    /// The texts.
    pub texts: Vec<Text>,
    /// What the caller calls them, for errors.
    pub field: &'static str,
    /// How they become tokens.
    pub options: TextOptions,
    /// Scale to length 1; `None` does what the model's files say.
    pub normalize: Option<bool>,
    /// Only so many components, from the first on.
    pub dimensions: Option<u32>,
}

/// The vectors of one text's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenVectors {
    /// Little-endian f32, one vector after the other.
    pub bytes: Bytes,
    /// Components of each.
    pub dimension: usize,
}

/// Items of texts, and what their options depend on.
pub(super) struct TextCall<'c> {
    /// What the model must be for.
    pub(super) tasks: &'c [Task],
    /// How the texts become tokens.
    pub(super) options: &'c TextOptions,
    /// Made with the options, as far as these are known without the model.
    pub(super) inputs: Vec<Input>,
}

/// Texts to tokenize.
#[derive(Clone, Debug)]
pub struct Tokenize {
    /// The texts.
    pub texts: Vec<String>,
    /// What the caller calls them, for errors.
    pub field: &'static str,
    /// The model's prompt of this name is put before each text.
    pub prompt: Option<String>,
    /// With the tokens that the model wants around a text.
    pub special: bool,
}

/// Tokens to turn into text.
#[derive(Clone, Debug)]
pub struct Decode {
    /// The tokens of each text.
    pub ids: Vec<Vec<u32>>,
    /// What the caller calls them, for errors.
    pub field: &'static str,
    /// Without the tokens that belong to no text.
    pub skip_special: bool,
}

impl Engine {
    /// Embeds texts: one vector of little-endian f32 for each.
    ///
    /// # Errors
    /// A text is too long, the model does something else, or it failed.
    pub async fn embed(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Embed,
    ) -> Result<Answer<Vec<Bytes>>, EngineError> {
        let Embed { texts, field, options, normalize, dimensions } = request;
        let inputs = items(texts, field, &options, Want::Embedding { normalize, dimensions })?;
        let call = TextCall { tasks: &[Task::Embed], options: &options, inputs };
        Ok(self.run_texts(context, model, call).await?.map(all_bytes))
    }

    /// Embeds texts sparsely: for each the tokens of the vocabulary that have a weight, in the form
    /// of [`Want::Sparse`]. `normalize` and `dimensions` of the request are ignored.
    ///
    /// # Errors
    /// See [`Engine::embed`].
    pub async fn embed_sparse(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Embed,
    ) -> Result<Answer<Vec<Bytes>>, EngineError> {
        let Embed { texts, field, options, .. } = request;
        let inputs = items(texts, field, &options, Want::Sparse)?;
        let call = TextCall { tasks: &[Task::Sparse], options: &options, inputs };
        Ok(self.run_texts(context, model, call).await?.map(all_bytes))
    }

    /// Embeds the tokens of texts: for each text its tokens' vectors, as the model gives them.
    /// `normalize` and `dimensions` of the request are ignored.
    ///
    /// # Errors
    /// See [`Engine::embed`].
    pub async fn embed_tokens(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Embed,
    ) -> Result<Answer<Vec<TokenVectors>>, EngineError> {
        let Embed { texts, field, options, .. } = request;
        let inputs = items(texts, field, &options, Want::TokenEmbeddings)?;
        let tasks = &[Task::Embed, Task::MultiVector];
        let call = TextCall { tasks, options: &options, inputs };
        let Answer { origin, output } = self.run_texts(context, model, call).await?;
        let vectors = |item: Item| token_vectors(&origin.record, item);
        let output = output.into_iter().map(vectors).collect::<Result<_, _>>()?;
        Ok(Answer { origin, output })
    }

    /// Lists the tokens of each text; none is cut off.
    ///
    /// # Errors
    /// A text is too long, or the model has no tokenizer.
    pub async fn tokenize(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Tokenize,
    ) -> Result<Answer<Vec<Vec<Token>>>, EngineError> {
        let Tokenize { texts, field, prompt, special } = request;
        check_prompt(prompt.as_ref())?;
        let item = |text: String| {
            check_length(text.len(), field)?;
            let ask = Ask::Tokenize { prompt: prompt.clone(), special };
            Ok(Input { ask, parts: vec![text.into()] })
        };
        let inputs = texts.into_iter().map(item).collect::<Result<_, EngineError>>()?;
        let Answer { origin, output } = self.run(context, model, &TEXT_TASKS, inputs).await?;
        let output = read_lists(output, Token::read_list).await?;
        Ok(Answer { origin, output })
    }

    /// Turns tokens into text.
    ///
    /// # Errors
    /// There are too many, or the model has no such tokens or no tokenizer.
    pub async fn decode(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Decode,
    ) -> Result<Answer<Vec<String>>, EngineError> {
        let Decode { ids, field, skip_special } = request;
        let item = |ids: Vec<u32>| {
            check_length(ids.len() * size_of::<u32>(), field)?;
            Ok(Input { ask: Ask::Decode { skip_special }, parts: vec![id_bytes(&ids)] })
        };
        let inputs = ids.into_iter().map(item).collect::<Result<_, EngineError>>()?;
        let answer = self.run(context, model, &TEXT_TASKS, inputs).await?;
        let text = |item: &Item| String::from_utf8_lossy(&item.bytes).into_owned();
        Ok(answer.map(|items| items.iter().map(text).collect()))
    }
}

impl Engine {
    /// Has a model answer texts, with the options as they are for the version that answers.
    pub(super) async fn run_texts(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        call: TextCall<'_>,
    ) -> Result<Answer<Vec<Item>>, EngineError> {
        let TextCall { tasks, options, mut inputs } = call;
        if options.purpose.is_none() {
            return self.run(context, model, tasks, inputs).await;
        }
        let (begin, mut attempts) = (Instant::now(), ATTEMPTS_MAX);
        let (_, mut record) = self.ready(context, model, tasks).await?;
        loop {
            let resolved = options.resolve(&record.facts)?;
            resolved.apply(&mut inputs);
            let context = context.within(self.time_left(context, begin));
            let result = self.run(&context, model, tasks, inputs.clone()).await;
            // An update meanwhile may have changed what the options mean.
            record = match &result {
                Ok(answer) => Arc::clone(&answer.origin.record),
                Err(error) if error.is_about_options() => {
                    self.ready(&context, model, tasks).await?.1
                }
                Err(_) => return result,
            };
            attempts -= 1;
            if attempts == 0 || options.resolve(&record.facts).ok() == Some(resolved) {
                return result;
            }
        }
    }
}

fn all_bytes(items: Vec<Item>) -> Vec<Bytes> {
    items.into_iter().map(|item| item.bytes).collect()
}

/// Reads the lists that workers write as JSON.
pub(super) async fn read_lists<T: Send + 'static>(
    items: Vec<Item>,
    read: fn(&[u8]) -> std::io::Result<Vec<T>>,
) -> Result<Vec<Vec<T>>, EngineError> {
    let bytes: usize = items.iter().map(|item| item.bytes.len()).sum();
    let all = move || items.iter().map(|item| read(&item.bytes)).collect::<Result<_, _>>();
    let lists = if bytes > READ_AT_ONCE_BYTES_MAX {
        task::spawn_blocking(all).await.unwrap_or_else(|error| Err(error.into()))
    } else {
        all()
    };
    lists.map_err(|error| EngineError::Tokens(Arc::new(error)))
}

/// The vectors of one text. A model that gives one vector for each token says how long its text's
/// vector is, which may be another length than that of a token's.
fn token_vectors(record: &Record, item: Item) -> Result<TokenVectors, EngineError> {
    let dimension = match record.facts.output() {
        Output::MultiVector { dimension } => dimension as usize,
        _ => item.bytes.len() / size_of::<f32>() / (item.tokens as usize).max(1),
    };
    let row = dimension * size_of::<f32>();
    if row == 0 && !item.bytes.is_empty() || row > 0 && !item.bytes.len().is_multiple_of(row) {
        return Err(EngineError::NoOutputs);
    }
    Ok(TokenVectors { bytes: item.bytes, dimension })
}
