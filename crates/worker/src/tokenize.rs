//! From texts to token ids: the only file that names `tokenizers`. Pads nothing, and truncates
//! by itself, because what `tokenizer.json` says about both is what its author trained with.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use onnxd_proto::message::{Refusal, RefusalKind, Rejection};
use sha2::{Digest, Sha256};
use tokenizers::{Encoding, PostProcessor, TruncationDirection, utils::parallelism};

/// The file of every version that says how texts become tokens.
const FILE: &str = "tokenizer.json";
/// What models call the token that is for padding.
const PADDING: [&str; 2] = ["[PAD]", "<pad>"];

/// The tokens of one text. All of them are attended to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Rows of the embedding table.
    pub(crate) ids: Vec<i64>,
    /// As long as `ids`; mostly zeros.
    pub(crate) type_ids: Vec<i64>,
}

/// A version's tokenizer.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    inner: Arc<Inner>,
    /// Tokens of the longest text, special tokens included.
    max_tokens: u32,
    /// Tokens of `max_tokens` that are left for the text.
    text_tokens: usize,
}

/// What all versions with the same file share.
#[derive(Debug)]
struct Inner {
    tokenizer: tokenizers::Tokenizer,
    /// What fills up shorter texts.
    pad_id: u32,
}

impl Tokenizer {
    /// Reads the tokenizer of the version in `dir`.
    ///
    /// # Errors
    /// The file is missing or malformed, or `max_tokens` leaves no room for a text.
    pub(crate) fn open(dir: &Path, max_tokens: u32) -> Result<Self, Refusal> {
        // A worker has one CPU; the library's thread pool would only take turns with us.
        parallelism::set_parallelism(false);
        let path = dir.join(FILE);
        if !path.is_file() {
            return Err(RefusalKind::Contract.because(format!("{FILE} is missing")));
        }
        let inner =
            shared(&path).map_err(|error| RefusalKind::Load.because(format!("{FILE}: {error}")))?;
        let special = inner
            .tokenizer
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(false));
        let text_tokens = usize::try_from(max_tokens).unwrap_or(usize::MAX).saturating_sub(special);
        if text_tokens == 0 {
            let message =
                format!("{FILE} adds {special} tokens, and a text has at most {max_tokens}");
            return Err(RefusalKind::Contract.because(message));
        }
        Ok(Self { inner, max_tokens, text_tokens })
    }

    /// The tokens of `text`, cut to what the model takes if `truncate` allows it.
    pub(crate) fn encode(&self, text: &str, truncate: bool) -> Result<Tokens, Rejection> {
        let failed = |error: tokenizers::Error| Rejection::Tokenizer(error.to_string());
        // Special tokens come last, so that truncation never takes them away.
        let mut encoding = self.inner.tokenizer.encode_fast(text, false).map_err(failed)?;
        if encoding.len() > self.text_tokens {
            if !truncate {
                return Err(self.too_long(encoding.len()));
            }
            encoding.truncate(self.text_tokens, 0, TruncationDirection::Right);
            // What was cut off would get special tokens of its own.
            drop(encoding.take_overflowing());
        }
        let encoding = self.inner.tokenizer.post_process(encoding, None, true).map_err(failed)?;
        if encoding.is_empty() {
            return Err(Rejection::Tokenizer("the text has no tokens".into()));
        }
        Ok(Tokens::from(&encoding))
    }

    /// The id that fills up shorter texts.
    pub(crate) fn pad_id(&self) -> i64 {
        self.inner.pad_id.into()
    }

    /// The highest id that any text may get.
    pub(crate) fn highest_id(&self) -> u32 {
        self.inner.tokenizer.get_vocab(true).into_values().max().unwrap_or(0)
    }

    fn too_long(&self, text_tokens: usize) -> Rejection {
        let special = self.max_tokens.saturating_sub(count(self.text_tokens));
        Rejection::TooLong { tokens: count(text_tokens) + special, max: self.max_tokens }
    }
}

impl Tokens {
    /// The first `length` tokens.
    pub(crate) fn cut(&self, length: usize) -> Self {
        let cut = |values: &[i64]| values.iter().copied().take(length).collect();
        Self { ids: cut(&self.ids), type_ids: cut(&self.type_ids) }
    }
}

impl From<&Encoding> for Tokens {
    fn from(encoding: &Encoding) -> Self {
        let widen = |values: &[u32]| values.iter().map(|&value| i64::from(value)).collect();
        Self { ids: widen(encoding.get_ids()), type_ids: widen(encoding.get_type_ids()) }
    }
}

/// The tokenizer that was read last, as long as something uses it. The versions of a model mostly
/// have the same, and reading it takes as long as mapping the weights.
static LAST: Mutex<Option<(Vec<u8>, Weak<Inner>)>> = Mutex::new(None);

/// Reads a tokenizer, unless the last one has the same content and is still in use.
fn shared(path: &Path) -> Result<Arc<Inner>, tokenizers::Error> {
    let bytes = fs::read(path)?;
    let digest = Sha256::digest(&bytes).to_vec();
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some((known, tokenizer)) = last
        && known == digest
        && let Some(tokenizer) = tokenizer.upgrade()
    {
        return Ok(tokenizer);
    }
    // Without the lock: whoever loads ahead is slow and must not hold up who serves.
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes)?;
    let pad_id = pad_id(&tokenizer);
    tokenizer.with_padding(None).with_truncation(None)?;
    let inner = Arc::new(Inner { tokenizer, pad_id });
    let last = Some((digest, Arc::downgrade(&inner)));
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = last;
    Ok(inner)
}

/// As the file says, else the token that usually is for padding.
fn pad_id(tokenizer: &tokenizers::Tokenizer) -> u32 {
    let usual = || PADDING.iter().find_map(|token| tokenizer.token_to_id(token));
    tokenizer.get_padding().map(|padding| padding.pad_id).or_else(usual).unwrap_or(0)
}

/// A number of tokens; bounded by the bytes of a text.
fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).expect("a text has fewer tokens than bytes, and those fit")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer that splits at spaces, with padding and truncation that must not count.
    fn tokenizer(max_tokens: u32, post_processor: &str) -> Result<Tokenizer, Refusal> {
        let dir = tempfile::tempdir().unwrap();
        let json = format!(
            r###"{{"version": "1.0",
            "truncation": {{"direction": "Right", "max_length": 3, "strategy": "LongestFirst",
                "stride": 0}},
            "padding": {{"strategy": {{"Fixed": 9}}, "direction": "Right", "pad_to_multiple_of": null,
                "pad_id": 5, "pad_type_id": 0, "pad_token": "b"}},
            "added_tokens": [{{"id": 6, "content": "[X]", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}}],
            "normalizer": null, "pre_tokenizer": {{"type": "WhitespaceSplit"}}, "decoder": null,
            "post_processor": {post_processor},
            "model": {{"type": "WordLevel", "unk_token": "u",
                "vocab": {{"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "u": 3, "a": 4, "b": 5}}}}}}"###
        );
        std::fs::write(dir.path().join(FILE), json).unwrap();
        Tokenizer::open(dir.path(), max_tokens)
    }

    const BERT: &str = r#"{"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}"#;

    fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<i64> {
        let tokens = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokens.type_ids, vec![0; tokens.ids.len()]);
        tokens.ids
    }

    #[test]
    fn a_text_is_neither_padded_nor_cut_as_the_file_says() {
        let tokenizer = tokenizer(8, BERT).unwrap();
        assert_eq!(ids(&tokenizer, "a b a zzz"), [1, 4, 5, 4, 3, 2]);
        assert_eq!(ids(&tokenizer, ""), [1, 2]);
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_its_special_tokens_or_rejected() {
        let tokenizer = tokenizer(4, BERT).unwrap();
        assert_eq!(ids(&tokenizer, "a b"), [1, 4, 5, 2]);
        assert_eq!(ids(&tokenizer, "a b a b a b"), [1, 4, 5, 2]);
        assert_eq!(tokenizer.encode("a b", false).unwrap().ids, [1, 4, 5, 2]);
        let rejection = tokenizer.encode("a b a", false).unwrap_err();
        assert_eq!(rejection, Rejection::TooLong { tokens: 5, max: 4 });
    }

    #[test]
    fn a_special_token_in_a_text_is_that_token() {
        assert_eq!(ids(&tokenizer(8, BERT).unwrap(), "a [X] b"), [1, 4, 6, 5, 2]);
    }

    #[test]
    fn a_text_without_any_token_is_rejected_rather_than_run() {
        let tokenizer = tokenizer(8, "null").unwrap();
        assert!(matches!(tokenizer.encode(" ", true), Err(Rejection::Tokenizer(_))));
        assert_eq!(ids(&tokenizer, "a"), [4]);
    }

    #[test]
    fn what_fills_up_shorter_texts_is_what_the_file_says() {
        assert_eq!(tokenizer(8, BERT).unwrap().pad_id(), 5);
    }

    #[test]
    fn the_highest_id_counts_added_tokens() {
        assert_eq!(tokenizer(8, BERT).unwrap().highest_id(), 6);
    }

    #[test]
    fn a_limit_that_leaves_no_room_for_a_text_is_refused() {
        assert_eq!(tokenizer(2, BERT).unwrap_err().kind, RefusalKind::Contract);
    }

    #[test]
    fn a_file_that_is_missing_or_malformed_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Tokenizer::open(dir.path(), 8).unwrap_err();
        assert_eq!(missing, RefusalKind::Contract.because("tokenizer.json is missing"));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let malformed = Tokenizer::open(dir.path(), 8).unwrap_err();
        assert_eq!(malformed.kind, RefusalKind::Load);
        assert!(malformed.message.contains(FILE), "{malformed}");
    }
}
