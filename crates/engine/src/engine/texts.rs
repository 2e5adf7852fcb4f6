//! Calls on texts: embed, classify, rerank, tokenize, decode. Checks the length of every input
//! before a tokenizer sees it.

use std::sync::Arc;

use bytes::Bytes;
use onnxd_proto::{
    domain::Task,
    limits::TEXT_BYTES_MAX,
    wire::ask::{Ask, Content, PROMPT_NAME_BYTES_MAX, PairCut, TextAsk, Want},
};
use tokio::task;

pub use onnxd_proto::wire::ask::{Side, Token};

use super::{
    Answer, Engine, EngineError, RequestContext,
    answer::Item,
    scores::{activate, floats, sigmoid},
};
use crate::{dispatch::Input, models::registry::Model};

/// Tasks whose models have a tokenizer.
const TEXT_TASKS: [Task; 6] = Task::TEXT;
/// Bytes of all pairs of one request.
const PAIRS_BYTES_MAX: usize = 8 << 20;
/// Bytes of lists of tokens beyond which reading them would delay other requests.
const READ_AT_ONCE_BYTES_MAX: usize = 256 * 1024;

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

/// How texts become tokens.
#[derive(Clone, Debug, Default)]
pub struct TextOptions {
    /// Which end of a text that is too long is cut off; `None` refuses it.
    pub truncate: Option<Side>,
    /// The model's prompt of this name is put before each text.
    pub prompt: Option<String>,
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

/// Texts to classify.
#[derive(Clone, Debug)]
pub struct Classify {
    /// The texts or pairs.
    pub inputs: Vec<TextOrPair>,
    /// What the caller calls them, for errors.
    pub field: &'static str,
    /// How they become tokens.
    pub options: TextOptions,
    /// Scores as the model gives them, rather than between 0 and 1.
    pub raw_scores: bool,
}

/// Texts to compare with a query.
#[derive(Clone, Debug)]
pub struct Rerank<'t> {
    /// The query.
    pub query: String,
    /// The texts.
    pub texts: &'t [String],
    /// What the caller calls them, for errors.
    pub field: &'static str,
    /// How they become tokens.
    pub options: TextOptions,
    /// Scores as the model gives them, rather than between 0 and 1.
    pub raw_scores: bool,
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

impl TextOptions {
    /// Cuts texts that are too long at their end.
    pub fn cut() -> Self {
        Self { truncate: Some(Side::Right), prompt: None }
    }

    fn ask(&self, content: Content, want: Want) -> Ask {
        let Self { truncate, prompt } = self.clone();
        Ask::Text { text: TextAsk { content, truncate, prompt, ..TextAsk::default() }, want }
    }

    /// The item of a text or of token ids.
    pub(super) fn item(&self, text: Text, want: Want) -> Input {
        match text {
            Text::Text(text) => {
                Input { ask: self.ask(Content::Text, want), parts: vec![text.into()] }
            }
            Text::Ids(ids) => {
                Input { ask: self.ask(Content::Ids, want), parts: vec![id_bytes(&ids)] }
            }
        }
    }

    /// The item of two texts that belong together, checked to be short enough.
    fn pair(&self, first: &Bytes, second: Bytes) -> Input {
        let first_bytes = u32::try_from(first.len()).expect("texts have a limit");
        let ask = self.ask(Content::Pair { first_bytes, cut: PairCut::Longest }, Want::Scores);
        Input { ask, parts: vec![first.clone(), second] }
    }
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
        Ok(self.run(context, model, &[Task::Embed], inputs).await?.map(all_bytes))
    }

    /// Embeds the tokens of texts: for each text its tokens' vectors, one after the other, as the
    /// model gives them. `normalize` and `dimensions` of the request are ignored.
    ///
    /// # Errors
    /// See [`Engine::embed`].
    pub async fn embed_tokens(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Embed,
    ) -> Result<Answer<Vec<Bytes>>, EngineError> {
        let Embed { texts, field, options, .. } = request;
        let inputs = items(texts, field, &options, Want::TokenEmbeddings)?;
        Ok(self.run(context, model, &[Task::Embed], inputs).await?.map(all_bytes))
    }

    /// Classifies texts or pairs: a score for each label, in the order of the model's labels.
    ///
    /// # Errors
    /// A text is too long, the model does something else, or it failed.
    pub async fn classify(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Classify,
    ) -> Result<Answer<Vec<Vec<f32>>>, EngineError> {
        let Classify { inputs, field, options, raw_scores } = request;
        let item = |input| match input {
            TextOrPair::Text(text) => {
                check_length(text.len(), field)?;
                Ok(options.item(Text::Text(text), Want::Scores))
            }
            TextOrPair::Pair(first, second) => {
                check_length(first.len() + second.len(), field)?;
                Ok(options.pair(&first.into(), second.into()))
            }
        };
        let inputs = inputs.into_iter().map(item).collect::<Result<_, EngineError>>()?;
        let tasks = [Task::Classify, Task::Rerank];
        let answer = self.run(context, model, &tasks, inputs).await?;
        let activation = answer.origin.record.facts.activation;
        let scores = |item: Item| {
            let mut scores = floats(&item.bytes);
            if !raw_scores {
                activate(&mut scores, activation);
            }
            scores
        };
        Ok(answer.map(|items| items.into_iter().map(scores).collect()))
    }

    /// Scores how well each text answers a query, in the order of the texts.
    ///
    /// # Errors
    /// The texts are too long, the model does something else, or it failed.
    pub async fn rerank(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Rerank<'_>,
    ) -> Result<Answer<Vec<f32>>, EngineError> {
        let raw_scores = request.raw_scores;
        let inputs = pairs(request)?;
        let answer = self.run(context, model, &[Task::Rerank], inputs).await?;
        let score = |item: Item| {
            let score = floats(&item.bytes).first().copied().unwrap_or_default();
            if raw_scores { score } else { sigmoid(score) }
        };
        Ok(answer.map(|items| items.into_iter().map(score).collect()))
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
        let bytes: usize = output.iter().map(|item| item.bytes.len()).sum();
        let output = if bytes > READ_AT_ONCE_BYTES_MAX {
            let read = task::spawn_blocking(move || tokens(&output)).await;
            read.map_err(|error| EngineError::Tokens(Arc::new(error.into())))??
        } else {
            tokens(&output)?
        };
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

fn all_bytes(items: Vec<Item>) -> Vec<Bytes> {
    items.into_iter().map(|item| item.bytes).collect()
}

fn tokens(items: &[Item]) -> Result<Vec<Vec<Token>>, EngineError> {
    let read: Result<_, _> = items.iter().map(|item| Token::read_list(&item.bytes)).collect();
    read.map_err(|error| EngineError::Tokens(Arc::new(error)))
}

/// Token ids as a payload.
fn id_bytes(ids: &[u32]) -> Bytes {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Checks the length of a text before a tokenizer sees it.
fn check_length(bytes: usize, field: &'static str) -> Result<(), EngineError> {
    if bytes > TEXT_BYTES_MAX {
        return Err(EngineError::TextTooLong { field, bytes });
    }
    Ok(())
}

/// Checks a prompt's name.
fn check_prompt(name: Option<&String>) -> Result<(), EngineError> {
    let max = PROMPT_NAME_BYTES_MAX;
    if name.is_some_and(|name| name.len() > max) {
        return Err(EngineError::PromptName { max });
    }
    Ok(())
}

/// The items of texts, ready for the queue.
fn items(
    texts: Vec<Text>,
    field: &'static str,
    options: &TextOptions,
    want: Want,
) -> Result<Vec<Input>, EngineError> {
    check_prompt(options.prompt.as_ref())?;
    let item = |text: Text| {
        let bytes = match &text {
            Text::Text(text) => text.len(),
            Text::Ids(ids) => ids.len() * size_of::<u32>(),
        };
        check_length(bytes, field)?;
        Ok(options.item(text, want))
    };
    texts.into_iter().map(item).collect()
}

/// The items of a query with each of the texts.
pub(super) fn pairs(request: Rerank<'_>) -> Result<Vec<Input>, EngineError> {
    let Rerank { query, texts, field, options, .. } = request;
    check_length(query.len(), "query")?;
    // The query is run with each of the texts: a short body could ask for hours of work.
    let bytes = texts.iter().map(|text| query.len() + text.len()).sum::<usize>();
    if bytes > PAIRS_BYTES_MAX {
        return Err(EngineError::PairsTooLong { field, bytes, max: PAIRS_BYTES_MAX });
    }
    let query = Bytes::from(query);
    let pair = |text: &String| {
        check_length(query.len() + text.len(), field)?;
        Ok(options.pair(&query, Bytes::copy_from_slice(text.as_bytes())))
    };
    texts.iter().map(pair).collect()
}
