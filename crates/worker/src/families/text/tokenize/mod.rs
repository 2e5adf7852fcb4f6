//! Turns texts into token ids; the only module that uses `tokenizers`. Adds no padding and does its
//! own truncation, because `tokenizer.json` has the settings of the author's training for both.

pub(crate) mod conversion;
mod describe;
mod lengths;
mod pieces;

use std::{
    fs,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use onnxd_proto::{
    domain::{Refusal, RefusalKind},
    wire::operation::{PairCut, Rejection, Side},
};
use sha2::{Digest, Sha256};
use tokenizers::{
    Encoding, NormalizerWrapper, PostProcessor, PreTokenizerWrapper, TruncationDirection,
    TruncationParams, TruncationStrategy,
    normalizers::{Lowercase, Sequence},
    processors::template::TemplateProcessing,
    utils::{parallelism, truncation::truncate_encodings},
};

use super::files::{
    Files,
    json::{require_content, within},
};
use crate::session::Tokens;

/// The file that defines how texts are tokenized.
const FILE: &str = "tokenizer.json";
/// Tokenizer classes of transformers whose outer tokens `tokenizer_config.json` sets.
const ENDS_BY_FLAGS: [&str; 5] = [
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GemmaTokenizer",
    "CohereTokenizer",
    "GPTNeoXTokenizer",
];
/// Common names of the padding token.
const PADDING: [&str; 2] = ["[PAD]", "<pad>"];

/// The input of one tokenization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Text<'a> {
    One(&'a str),
    /// Two texts that belong together, distinguished by their type ids.
    Pair(&'a str, &'a str, PairCut),
    /// Token ids of the model.
    Ids(Vec<u32>),
}

/// A version's tokenizer.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    inner: Arc<Inner>,
    /// The longest text in tokens, special tokens included.
    max_tokens: u32,
}

/// The part that all versions with the same file share.
#[derive(Debug)]
struct Inner {
    tokenizer: tokenizers::Tokenizer,
    /// The id of the padding token.
    pad_id: u32,
    /// The length limit in the file itself, and the end at which it cuts texts.
    limit: Option<u32>,
    side: Side,
    /// The highest id that any text may contain; computed on first use.
    highest_id: OnceLock<u32>,
}

impl Tokenizer {
    /// Reads the tokenizer of a version. `lowercase` lower-cases texts before any other step.
    ///
    /// # Errors
    /// The file is missing or malformed, or `max_tokens` leaves no room for a text.
    pub(crate) fn open(
        files: &Files<'_>,
        max_tokens: u32,
        lowercase: bool,
    ) -> Result<Self, Refusal> {
        // A worker has one CPU, so the library's thread pool would only add context switches.
        parallelism::set_parallelism(false);
        let (name, bytes) = match files.find(FILE)? {
            Some(name) => {
                let path = within(files.dir, &name)?;
                let read = |error| RefusalKind::Internal.because(format!("{name}: {error}"));
                let bytes = fs::read(path).map_err(read)?;
                require_content(&name, &bytes)?;
                (name, bytes)
            }
            None => (
                "the tokenizer converted from the vocabulary".into(),
                conversion::document(&files.home_dir()?)?,
            ),
        };
        let changes = Overrides {
            lowercase,
            bert: bert_flags(files)?,
            ends: ends(files)?,
            prefix_space: files.tokenizer.get("add_prefix_space")?,
        };
        let inner = shared(bytes, changes)
            .map_err(|error| RefusalKind::Load.because(format!("{name}: {error}")))?;
        let tokenizer = Self { inner, max_tokens };
        if tokenizer.text_tokens(false) == 0 {
            let special = tokenizer.special_tokens(false);
            let message = format!(
                "{FILE} adds {special} tokens, but a text may have only {max_tokens}; raise \
                 max_tokens in onnxd.toml"
            );
            return Err(RefusalKind::Contract.because(message));
        }
        Ok(tokenizer)
    }

    /// Tokenizes `text`. A text that is too long is cut at the end that `truncate` names, or
    /// rejected if it is `None`.
    pub(crate) fn encode(
        &self,
        text: &Text<'_>,
        truncate: Option<Side>,
    ) -> Result<Tokens, Rejection> {
        let encoding = match text {
            Text::One(text) => self.encode_one(text, truncate)?,
            Text::Pair(first, second, cut) => self.encode_pair((first, second), *cut, truncate)?,
            Text::Ids(ids) => return self.take_ids(ids, truncate),
        };
        if encoding.is_empty() {
            return Err(Rejection::Tokenizer("the text has no tokens".into()));
        }
        Ok(Tokens::from(&encoding))
    }

    /// Special tokens are added last, so truncation never removes them.
    fn encode_one(&self, text: &str, truncate: Option<Side>) -> Result<Encoding, Rejection> {
        let mut encoding = self.inner.tokenizer.encode_fast(text, false).map_err(failed)?;
        let text_tokens = self.text_tokens(false);
        if encoding.len() > text_tokens {
            let side = truncate.ok_or_else(|| self.too_long(encoding.len(), false))?;
            encoding.truncate(text_tokens, 0, direction(side));
            // The overflow would get its own special tokens.
            drop(encoding.take_overflowing());
        }
        self.inner.tokenizer.post_process(encoding, None, true).map_err(failed)
    }

    /// Cuts the longer of two texts first, until both are of equal length, or only the first one.
    fn encode_pair(
        &self,
        (first, second): (&str, &str),
        cut: PairCut,
        truncate: Option<Side>,
    ) -> Result<Encoding, Rejection> {
        let tokenizer = &self.inner.tokenizer;
        let mut first = tokenizer.encode_fast(first, false).map_err(failed)?;
        let mut second = tokenizer.encode_fast(second, false).map_err(failed)?;
        let (tokens, max_length) = (first.len() + second.len(), self.text_tokens(true));
        if tokens > max_length {
            let side = truncate.ok_or_else(|| self.too_long(tokens, true))?;
            let strategy = match cut {
                // The library refuses to cut a text to nothing.
                PairCut::First if second.len() < max_length => TruncationStrategy::OnlyFirst,
                PairCut::First | PairCut::Longest => TruncationStrategy::LongestFirst,
            };
            let params =
                TruncationParams { direction: direction(side), max_length, strategy, stride: 0 };
            let (cut, pair) = truncate_encodings(first, Some(second), &params).map_err(failed)?;
            (first, second) = (cut, pair.unwrap_or_default());
            drop(first.take_overflowing());
            drop(second.take_overflowing());
        }
        tokenizer.post_process(first, Some(second), true).map_err(failed)
    }

    /// Takes a client's own token ids, which must be in the vocabulary.
    fn take_ids(&self, ids: &[u32], truncate: Option<Side>) -> Result<Tokens, Rejection> {
        if ids.is_empty() {
            return Err(Rejection::Tokenizer("the list of tokens is empty".into()));
        }
        let highest = self.highest_id();
        if let Some(&id) = ids.iter().find(|&&id| id > highest) {
            return Err(Rejection::TokenId { id, highest });
        }
        let max = usize::try_from(self.max_tokens).unwrap_or(usize::MAX);
        let kept = match truncate {
            _ if ids.len() <= max => ids,
            Some(Side::Right | Side::Model) => &ids[..max],
            Some(Side::Left) => &ids[ids.len() - max..],
            None => {
                return Err(Rejection::TooLong { tokens: count(ids.len()), max: self.max_tokens });
            }
        };
        let ids: Vec<i64> = kept.iter().map(|&id| id.into()).collect();
        let type_ids = vec![0; ids.len()];
        Ok(Tokens::new(ids, type_ids))
    }

    /// Returns the id of the padding token.
    pub(crate) fn pad_id(&self) -> i64 {
        self.inner.pad_id.into()
    }

    /// Returns the length limit in the file itself, which only applies to models without a graph.
    pub(crate) fn declared_limit(&self) -> Option<u32> {
        self.inner.limit
    }

    /// Returns the end at which the file itself cuts texts.
    pub(crate) fn declared_side(&self) -> Side {
        self.inner.side
    }

    /// Returns the highest id that any text may contain.
    pub(crate) fn highest_id(&self) -> u32 {
        let look = || self.inner.tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        *self.inner.highest_id.get_or_init(look)
    }

    /// Returns the number of special tokens around a text, or around and between the texts of a
    /// pair.
    fn special_tokens(&self, pair: bool) -> usize {
        let processor = self.inner.tokenizer.get_post_processor();
        processor.map_or(0, |processor| processor.added_tokens(pair))
    }

    /// Returns the number of tokens left for the text itself.
    fn text_tokens(&self, pair: bool) -> usize {
        let all = usize::try_from(self.max_tokens).unwrap_or(usize::MAX);
        all.saturating_sub(self.special_tokens(pair))
    }

    /// Returns the rejection for a text of `tokens` tokens, special ones included.
    pub(crate) fn too_many(&self, tokens: usize) -> Rejection {
        Rejection::TooLong { tokens: count(tokens), max: self.max_tokens }
    }

    fn too_long(&self, text_tokens: usize, pair: bool) -> Rejection {
        let tokens = count(text_tokens + self.special_tokens(pair));
        Rejection::TooLong { tokens, max: self.max_tokens }
    }
}

impl From<&Encoding> for Tokens {
    fn from(encoding: &Encoding) -> Self {
        let widen = |values: &[u32]| values.iter().map(|&value| i64::from(value)).collect();
        Self::new(widen(encoding.get_ids()), widen(encoding.get_type_ids()))
    }
}

/// The tokenizer that was read last, while something uses it. Versions of a model usually share it,
/// and reading it takes as long as mapping the weights.
static LAST: Mutex<Option<(Vec<u8>, Weak<Inner>)>> = Mutex::new(None);

/// Settings of other files that override `tokenizer.json`.
#[derive(Clone, Debug)]
struct Overrides {
    /// Lower-cases texts before any other step.
    lowercase: bool,
    /// How BERT's normalizer treats case, accents and Chinese characters.
    bert: [Option<bool>; 3],
    /// Whether byte-level tokenization inserts a space before a text.
    prefix_space: Option<bool>,
    /// The tokens before and after a text.
    ends: Option<[Option<String>; 2]>,
}

/// Returns the tokens that `tokenizer_config.json` puts around a text, for classes that support
/// this.
fn ends(files: &Files<'_>) -> Result<Option<[Option<String>; 2]>, Refusal> {
    let class: String = files.tokenizer.get("tokenizer_class")?.unwrap_or_default();
    let flags: [Option<bool>; 2] =
        [files.tokenizer.get("add_bos_token")?, files.tokenizer.get("add_eos_token")?];
    let is_said = flags.iter().any(Option::is_some);
    if !is_said || !ENDS_BY_FLAGS.contains(&class.trim_end_matches("Fast")) {
        return Ok(None);
    }
    // By default, these classes add a first token but no last one.
    let begins = flags[0].unwrap_or(class.trim_end_matches("Fast") != "GPTNeoXTokenizer");
    let ends = flags[1].unwrap_or(false);
    let token = |is_wanted: bool, field: &str| match is_wanted {
        true => files.special_token(field),
        false => Ok(None),
    };
    Ok(Some([token(begins, "bos_token")?, token(ends, "eos_token")?]))
}

/// Builds the processor that puts these tokens around a text, or around each text of a pair.
fn template(
    tokenizer: &tokenizers::Tokenizer,
    ends: &[Option<String>; 2],
) -> Result<TemplateProcessing, tokenizers::Error> {
    let known = ends.iter().flatten();
    let special: Vec<(String, u32)> =
        known.filter_map(|token| Some((token.clone(), tokenizer.token_to_id(token)?))).collect();
    let around = |text: &str, kind: u8| {
        let end = |token: &Option<String>| token.as_ref().map(|token| format!("{token}:{kind}"));
        let parts = [end(&ends[0]), Some(format!("{text}:{kind}")), end(&ends[1])];
        parts.into_iter().flatten().collect::<Vec<String>>()
    };
    let single = around("$A", 0);
    let pair = [around("$A", 0), around("$B", 1)].concat();
    let built = TemplateProcessing::builder()
        .try_single(single)?
        .try_pair(pair)?
        .special_tokens(special)
        .build();
    built.map_err(|error| error.to_string().into())
}

/// Returns the settings of BERT's normalizer in `tokenizer_config.json`, which transformers
/// applies.
fn bert_flags(files: &Files<'_>) -> Result<[Option<bool>; 3], Refusal> {
    let class: String = files.tokenizer.get("tokenizer_class")?.unwrap_or_default();
    if !class.trim_end_matches("Fast").ends_with("BertTokenizer") {
        return Ok([None; 3]);
    }
    let flag = |name: &str| files.tokenizer.get::<bool>(name);
    Ok([flag("do_lower_case")?, flag("strip_accents")?, flag("tokenize_chinese_chars")?])
}

/// Reads a tokenizer, or reuses the last one if it has the same content and is still in use.
fn shared(bytes: Vec<u8>, changes: Overrides) -> Result<Arc<Inner>, tokenizers::Error> {
    let digest = [&Sha256::digest(&bytes)[..], format!("{changes:?}").as_bytes()].concat();
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some((known, tokenizer)) = last
        && known == digest
        && let Some(tokenizer) = tokenizer.upgrade()
    {
        return Ok(tokenizer);
    }
    // Read without the lock: loading ahead is slow and must not block serving.
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes)?;
    let pad_id = pad_id(&tokenizer);
    let side = match tokenizer.get_truncation().map(|cut| cut.direction) {
        Some(TruncationDirection::Left) => Side::Left,
        _ => Side::Right,
    };
    let limit = tokenizer.get_truncation().and_then(|cut| u32::try_from(cut.max_length).ok());
    tokenizer.with_padding(None).with_truncation(None)?;
    if let Some(NormalizerWrapper::BertNormalizer(own)) = tokenizer.get_normalizer() {
        let [lowercase, strip_accents, chinese] = changes.bert;
        let mut own = *own;
        own.lowercase = lowercase.unwrap_or(own.lowercase);
        own.strip_accents = strip_accents.or(own.strip_accents);
        own.handle_chinese_chars = chinese.unwrap_or(own.handle_chinese_chars);
        tokenizer.with_normalizer(Some(own))?;
    }
    if let (Some(space), Some(PreTokenizerWrapper::ByteLevel(own))) =
        (changes.prefix_space, tokenizer.get_pre_tokenizer())
    {
        let own = own.add_prefix_space(space);
        tokenizer.with_pre_tokenizer(Some(own));
    }
    if let Some(ends) = &changes.ends {
        let template = template(&tokenizer, ends)?;
        tokenizer.with_post_processor(Some(template));
    }
    if changes.lowercase {
        // Before the tokenizer's own normalizer, so that special tokens still match as written.
        let own = tokenizer.get_normalizer().cloned();
        let all = [Some(NormalizerWrapper::from(Lowercase)), own].into_iter().flatten();
        tokenizer.with_normalizer(Some(Sequence::new(all.collect())))?;
    }
    let inner = Arc::new(Inner { tokenizer, pad_id, limit, side, highest_id: OnceLock::new() });
    let last = Some((digest, Arc::downgrade(&inner)));
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = last;
    Ok(inner)
}

fn failed(error: tokenizers::Error) -> Rejection {
    Rejection::Tokenizer(error.to_string())
}

fn direction(side: Side) -> TruncationDirection {
    match side {
        Side::Left => TruncationDirection::Left,
        Side::Right | Side::Model => TruncationDirection::Right,
    }
}

/// Returns the padding id in the file, else that of a common padding token.
fn pad_id(tokenizer: &tokenizers::Tokenizer) -> u32 {
    let usual = || PADDING.iter().find_map(|token| tokenizer.token_to_id(token));
    tokenizer.get_padding().map(|padding| padding.pad_id).or_else(usual).unwrap_or(0)
}

/// Converts a number of tokens, which is bounded by the bytes of a text.
fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).expect("texts have fewer tokens than bytes, and those fit")
}

#[cfg(test)]
#[path = "tokenize_tests.rs"]
mod tests;
