//! Operations on texts that return vectors, and conversion to tokens and back. [`super::labels`]
//! has the operations that return scores and labels.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use onnxd_proto::{
    domain::{Output, Record, Task},
    wire::operation::{Operation, TextOutput},
};
use tokio::task;

pub use onnxd_proto::wire::operation::{Role, Side, Switch, SwitchValue, Token};

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
/// JSON lists up to this size are parsed inline; larger ones would delay other requests.
const PARSED_INLINE_BYTES_MAX: usize = 256 * 1024;
/// How often a request is run if the model keeps changing while its purpose is resolved.
const ATTEMPTS_MAX: usize = 3;

/// A text, or its token ids in the model's vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Plain text.
    Text(String),
    /// Token ids as the model takes them, including special tokens.
    Ids(Vec<u32>),
}

/// A text to classify, or a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextOrPair {
    /// One text.
    Text(String),
    /// Two texts.
    Pair(String, String),
}

/// Texts to embed.
#[derive(Clone, Debug)]
pub struct Embed {
    pub texts: Vec<Text>,
    /// The caller's name for the texts, for errors.
    pub field: &'static str,
    /// How the texts are tokenized.
    pub options: TextOptions,
    /// Whether to scale to length 1; `None` follows the model's files.
    pub normalize: Option<bool>,
    /// Return only this number of leading components.
    pub dimensions: Option<u32>,
}

/// The vectors of a text's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenVectors {
    /// Little-endian f32 vectors, one after another.
    pub bytes: Bytes,
    /// Components per vector.
    pub dimension: usize,
}

/// A request on texts: the items and the options that depend on the model.
pub(super) struct TextCall<'c> {
    /// The tasks that support the operation.
    pub(super) tasks: &'c [Task],
    /// How the texts are tokenized.
    pub(super) options: &'c TextOptions,
    /// The items, with the options as far as they are known without the model.
    pub(super) inputs: Vec<Input>,
}

/// Texts to tokenize.
#[derive(Clone, Debug)]
pub struct Tokenize {
    pub texts: Vec<String>,
    /// The caller's name for the texts, for errors.
    pub field: &'static str,
    /// The name of the model's prompt to put before each text.
    pub prompt: Option<String>,
    /// Include special tokens.
    pub special: bool,
}

/// Token ids to turn into text.
#[derive(Clone, Debug)]
pub struct Decode {
    /// The token ids of each text.
    pub ids: Vec<Vec<u32>>,
    /// The caller's name for the ids, for errors.
    pub field: &'static str,
    /// Omit special tokens.
    pub skip_special: bool,
}

impl Engine {
    /// Embeds texts. Returns one vector of little-endian f32 per text.
    ///
    /// # Errors
    /// A text is too long, the model's task is different, or inference failed.
    pub async fn embed(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Embed,
    ) -> Result<Answer<Vec<Bytes>>, EngineError> {
        let Embed { texts, field, options, normalize, dimensions } = request;
        let inputs =
            items(texts, field, &options, TextOutput::Embedding { normalize, dimensions })?;
        let call = TextCall { tasks: &[Task::Embed], options: &options, inputs };
        let answer = self.run_texts(context, model, call).await?.map(all_bytes);
        self.issued.remember(&answer.origin.record.version, answer.output.iter());
        Ok(answer)
    }

    /// Embeds texts sparsely. Returns the tokens of the vocabulary that have a weight, in the form
    /// of [`TextOutput::Sparse`]. Ignores `normalize` and `dimensions` of the request.
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
        let inputs = items(texts, field, &options, TextOutput::Sparse)?;
        let call = TextCall { tasks: &[Task::Sparse], options: &options, inputs };
        Ok(self.run_texts(context, model, call).await?.map(all_bytes))
    }

    /// Embeds the tokens of texts. Returns the vectors of each text's tokens as the model gives
    /// them. Ignores `normalize` and `dimensions` of the request.
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
        let inputs = items(texts, field, &options, TextOutput::TokenEmbeddings)?;
        let tasks = &[Task::Embed, Task::MultiVector];
        let call = TextCall { tasks, options: &options, inputs };
        let Answer { origin, output } = self.run_texts(context, model, call).await?;
        let vectors = |item: Item| token_vectors(&origin.record, item);
        let output = output.into_iter().map(vectors).collect::<Result<_, _>>()?;
        Ok(Answer { origin, output })
    }

    /// Lists the tokens of each text, without truncation.
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
            let operation = Operation::Tokenize { prompt: prompt.clone(), special };
            Ok(Input { operation, parts: vec![text.into()] })
        };
        let inputs = texts.into_iter().map(item).collect::<Result<_, EngineError>>()?;
        let Answer { origin, output } = self.run(context, model, &TEXT_TASKS, inputs).await?;
        let output = read_lists(output, Token::read_list).await?;
        Ok(Answer { origin, output })
    }

    /// Turns tokens into text.
    ///
    /// # Errors
    /// There are too many ids, an id is unknown, or the model has no tokenizer.
    pub async fn decode(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Decode,
    ) -> Result<Answer<Vec<String>>, EngineError> {
        let Decode { ids, field, skip_special } = request;
        let item = |ids: Vec<u32>| {
            check_length(ids.len() * size_of::<u32>(), field)?;
            Ok(Input { operation: Operation::Decode { skip_special }, parts: vec![id_bytes(&ids)] })
        };
        let inputs = ids.into_iter().map(item).collect::<Result<_, EngineError>>()?;
        let answer = self.run(context, model, &TEXT_TASKS, inputs).await?;
        let text = |item: &Item| String::from_utf8_lossy(&item.bytes).into_owned();
        Ok(answer.map(|items| items.iter().map(text).collect()))
    }
}

impl Engine {
    /// Answers texts with the options as they apply to the version that answers.
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
        let (start, mut attempts) = (Instant::now(), ATTEMPTS_MAX);
        let (_, mut record) = self.ready(context, model, tasks).await?;
        loop {
            let resolved = options.resolve(&record.facts)?;
            resolved.apply(&mut inputs);
            let context = context.within(self.time_left(context, start));
            let result = self.run(&context, model, tasks, inputs.clone()).await;
            // An update in the meantime may have changed how the options apply.
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

/// Parses the JSON lists written by workers.
pub(super) async fn read_lists<T: Send + 'static>(
    items: Vec<Item>,
    read: fn(&[u8]) -> std::io::Result<Vec<T>>,
) -> Result<Vec<Vec<T>>, EngineError> {
    let bytes: usize = items.iter().map(|item| item.bytes.len()).sum();
    let all = move || items.iter().map(|item| read(&item.bytes)).collect::<Result<_, _>>();
    let lists = if bytes > PARSED_INLINE_BYTES_MAX {
        task::spawn_blocking(all).await.unwrap_or_else(|error| Err(error.into()))
    } else {
        all()
    };
    lists.map_err(|error| EngineError::Tokens(Arc::new(error)))
}

/// Returns the token vectors of one text. Where the model gives one vector per token, the facts
/// only state the width of a text's vector, which may differ from a token's.
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
