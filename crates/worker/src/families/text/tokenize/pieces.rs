//! Tokenizer functions for particular models: single tokens, and the part of a text that each token
//! covers.

use onnxd_proto::wire::operation::{Rejection, Side};
use tokenizers::{Decoder, Encoding, ModelWrapper};

use super::{Tokenizer, failed};
use crate::{families::text::stages::entities::Piece, session::Tokens};

impl Tokenizer {
    /// Returns the same tokenizer with another length limit.
    pub(crate) fn with_max(&self, max_tokens: u32) -> Self {
        Self { inner: self.inner.clone(), max_tokens }
    }

    /// Returns the longest text in tokens.
    pub(crate) fn max_tokens(&self) -> u32 {
        self.max_tokens
    }

    /// Returns the id of a token, if the vocabulary has it.
    pub(crate) fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.tokenizer.token_to_id(token)
    }

    /// Returns the id of the unknown token.
    pub(crate) fn unknown_id(&self) -> Option<u32> {
        let token = match self.inner.tokenizer.get_model() {
            ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
            ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
            ModelWrapper::BPE(model) => model.unk_token.clone(),
            ModelWrapper::Unigram(_) => None,
        };
        let usual = ["<unk>", "[UNK]"];
        token
            .and_then(|token| self.id_of(&token))
            .or_else(|| usual.iter().find_map(|token| self.id_of(token)))
    }

    /// Tokenizes a text without the model's special tokens.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub(crate) fn bare(&self, text: &str) -> Result<Vec<i64>, Rejection> {
        let encoding = self.inner.tokenizer.encode_fast(text, false).map_err(failed)?;
        Ok(encoding.get_ids().iter().map(|&id| id.into()).collect())
    }

    /// Returns how many tokens a prompt has at the start of a text, including special tokens before
    /// it.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub(crate) fn prompt_tokens(&self, prompt: &str) -> Result<usize, Rejection> {
        let encoding = self.inner.tokenizer.encode_fast(prompt, true).map_err(failed)?;
        let added = self.inner.tokenizer.get_added_tokens_decoder();
        let ends_special = encoding
            .get_ids()
            .last()
            .is_some_and(|id| added.get(id).is_some_and(|token| token.special));
        Ok(encoding.len() - usize::from(ends_special))
    }

    /// Tokenizes a text for the model, and returns the part of the text that each token covers.
    ///
    /// # Errors
    /// The text is too long and must not be cut, or the tokenizer fails.
    pub(crate) fn encode_pieces(
        &self,
        text: &str,
        truncate: Option<Side>,
    ) -> Result<(Tokens, Vec<Piece>), Rejection> {
        // With special tokens in one pass: a processor that trims offsets would otherwise trim them
        // twice.
        let encoding = self.inner.tokenizer.encode_char_offsets(text, true).map_err(failed)?;
        if encoding.is_empty() {
            return Err(Rejection::Tokenizer("the text has no tokens".into()));
        }
        let kept = self.kept(&encoding, truncate)?;
        let characters: Vec<char> = text.chars().collect();
        let unknown = self.unknown_id();
        let mut pieces = Vec::with_capacity(encoding.len());
        for (index, &position) in kept.iter().enumerate() {
            if encoding.get_special_tokens_mask()[position] == 1 {
                continue;
            }
            let (start, stop) = encoding.get_offsets()[position];
            let is_unknown = Some(encoding.get_ids()[position]) == unknown;
            let stop = stop.min(characters.len());
            let part = &characters[start.min(stop)..stop];
            let token = &encoding.get_tokens()[position];
            let is_subword = !is_unknown && self.is_subword(token, part, (start, &characters));
            let word = if is_unknown { part.iter().collect() } else { token.clone() };
            pieces.push(Piece { word, start, stop, index, is_subword });
        }
        let pick = |values: &[u32]| kept.iter().map(|&position| values[position].into()).collect();
        let tokens = Tokens::new(pick(encoding.get_ids()), pick(encoding.get_type_ids()));
        Ok((tokens, pieces))
    }

    /// Returns the indices of the tokens to keep within the model's limit; the special tokens at
    /// both ends stay.
    fn kept(&self, encoding: &Encoding, truncate: Option<Side>) -> Result<Vec<usize>, Rejection> {
        let (length, max) = (encoding.len(), self.max_tokens() as usize);
        if length <= max {
            return Ok((0..length).collect());
        }
        let side = truncate.ok_or_else(|| self.too_many(length))?;
        let mask = encoding.get_special_tokens_mask();
        let before = mask.iter().take_while(|&&special| special == 1).count();
        let after = mask.iter().rev().take_while(|&&special| special == 1).count();
        let room = max.saturating_sub(before + after);
        let text = match side {
            Side::Right | Side::Model => before..before + room,
            Side::Left => length - after - room..length - after,
        };
        Ok((0..before).chain(text).chain(length - after..length).collect())
    }

    /// As in transformers: by the token's length if the vocabulary marks the continuation of words,
    /// else by the space before it.
    fn is_subword(&self, token: &str, part: &[char], (start, text): (usize, &[char])) -> bool {
        let is_marked = match self.inner.tokenizer.get_model() {
            ModelWrapper::WordPiece(model) => !model.continuing_subword_prefix.is_empty(),
            ModelWrapper::BPE(model) => {
                model.continuing_subword_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty())
            }
            _ => false,
        };
        if is_marked {
            return token.chars().count() != part.len();
        }
        let around = text.get(start.saturating_sub(1)..(start + 1).min(text.len()));
        start > 0 && around.is_some_and(|around| !around.contains(&' '))
    }

    /// Converts tokens to text.
    pub(crate) fn join(&self, tokens: &[String]) -> String {
        let decoded = match self.inner.tokenizer.get_decoder() {
            Some(decoder) => decoder.decode(tokens.to_vec()).ok(),
            None => None,
        };
        decoded.unwrap_or_else(|| tokens.join(" "))
    }
}
