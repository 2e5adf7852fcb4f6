//! Prepares texts for late interaction: the prefixes of queries and documents, the mask tokens that
//! expand queries, and the document tokens to skip. Called by [`super::prepare`].

use std::collections::HashSet;

use onnxd_proto::{
    domain::Refusal,
    wire::ask::{Rejection, Role, Side},
};

use super::{
    files::{Files, json::contract, late::Late},
    prepare::Prepared,
    tokenize::{Text, Tokenizer},
};

/// Names of the token that pads queries to their full length.
const MASKS: [&str; 2] = ["[MASK]", "<mask>"];

/// The late-interaction settings as token ids.
#[derive(Debug)]
pub(super) struct LateTokens {
    settings: Late,
    query_prefix: Option<i64>,
    document_prefix: Option<i64>,
    mask: i64,
    skipped: HashSet<i64>,
}

impl LateTokens {
    /// Looks up the tokens that the files name.
    ///
    /// # Errors
    /// A prefix token is not in the vocabulary.
    pub(super) fn new(
        files: &Files<'_>,
        settings: Late,
        tokenizer: &Tokenizer,
    ) -> Result<Self, Refusal> {
        let file = "config_sentence_transformers.json";
        let prefix = |field: &str, token: &str| {
            if token.is_empty() {
                return Ok(None);
            }
            tokenizer.id_of(token).map(|id| Some(id.into())).ok_or_else(|| {
                contract(format!("{file}: {field}: token {token:?} is not in tokenizer.json"))
            })
        };
        let named = |field: &str| {
            let token = files.special_token(field)?;
            Ok::<_, Refusal>(token.and_then(|token| tokenizer.id_of(&token)))
        };
        // The same order as in pylate: decoders have no mask token.
        let mask = match named("mask_token")? {
            Some(mask) => Some(mask),
            None => MASKS.iter().find_map(|token| tokenizer.id_of(token)),
        };
        let mask = match mask {
            Some(mask) => Some(mask),
            None => named("eos_token")?,
        };
        let mask = mask.map_or_else(|| tokenizer.pad_id(), i64::from);
        let unknown = tokenizer.unknown_id();
        // As in pylate, a word outside the vocabulary maps to the unknown token.
        let skipped = settings.skipped.iter().filter_map(|word| tokenizer.id_of(word).or(unknown));
        Ok(Self {
            query_prefix: prefix("query_prefix", &settings.query_prefix)?,
            document_prefix: prefix("document_prefix", &settings.document_prefix)?,
            mask,
            skipped: skipped.map(i64::from).collect(),
            settings,
        })
    }

    /// Tokenizes a text.
    ///
    /// # Errors
    /// The text is too long and must not be cut, or the tokenizer fails.
    pub(super) fn prepare(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        role: Role,
        truncate: Option<Side>,
    ) -> Result<Prepared, Rejection> {
        let (prefix, length) = match role {
            Role::Query => (self.query_prefix, self.settings.query_tokens),
            Role::Document => (self.document_prefix, self.settings.document_tokens),
        };
        let length = length.min(tokenizer.max_tokens());
        // As in the releases of sentence-transformers that pylate uses.
        let text = text.trim();
        let room = length.saturating_sub(u32::from(prefix.is_some())).max(1);
        let mut tokens = tokenizer.with_max(room).encode(&Text::One(text), truncate)?;
        if let Some(prefix) = prefix {
            tokens.ids.insert(1, prefix);
            tokens.type_ids.insert(1, 0);
            tokens.attended += 1;
        }
        let kept = match role {
            Role::Query => {
                if self.settings.is_expanded && tokens.ids.len() < length as usize {
                    tokens.ids.resize(length as usize, self.mask);
                    tokens.type_ids.resize(length as usize, 0);
                }
                if self.settings.attends_to_expansion {
                    tokens.attended = tokens.ids.len();
                }
                vec![true; tokens.ids.len()]
            }
            Role::Document => tokens.ids.iter().map(|id| !self.skipped.contains(id)).collect(),
        };
        Ok(Prepared { tokens, kept, ..Prepared::default() })
    }
}
