//! What models of late interaction say of themselves: how queries and documents begin, how long they
//! are, and which tokens of a document count. In the words of pylate, and of Stanford's ColBERT.

use onnxd_proto::domain::Refusal;

use super::{Files, json::contract};

/// Tokens of a query and of a document where no file says it, as pylate has it.
const QUERY_TOKENS: u32 = 32;
const DOCUMENT_TOKENS: u32 = 180;
/// Words that are left out of documents, at most.
const SKIPPED_MAX: usize = 4096;

/// How texts on both sides of a search are prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    /// Tokens that stand after the first one; empty is none.
    pub(crate) query_prefix: String,
    pub(crate) document_prefix: String,
    /// Tokens of the longest text, the prefix included.
    pub(crate) query_tokens: u32,
    pub(crate) document_tokens: u32,
    /// Whether queries are filled up with masks, whose vectors count.
    pub(crate) is_expanded: bool,
    /// Whether these masks are attended to.
    pub(crate) attends_to_expansion: bool,
    /// Tokens of a document that do not count.
    pub(crate) skipped: Vec<String>,
}

impl Late {
    /// Reads `config_sentence_transformers.json`.
    ///
    /// # Errors
    /// It is malformed.
    pub(crate) fn read(files: &Files<'_>) -> Result<Self, Refusal> {
        let file = &files.sentence;
        let prefix = |field: &str, usual: &str| {
            Ok::<_, Refusal>(file.get(field)?.unwrap_or_else(|| usual.to_owned()))
        };
        let skipped: Vec<String> = file.get("skiplist_words")?.unwrap_or_else(punctuation);
        if skipped.len() > SKIPPED_MAX {
            let name = file.name();
            return Err(contract(format!("{name}: skiplist_words has more than {SKIPPED_MAX}")));
        }
        let is_expanded = file.get("do_query_expansion")?.unwrap_or(true);
        let attends = file.get("attend_to_expansion_tokens")?.unwrap_or(false);
        Ok(Self {
            query_prefix: prefix("query_prefix", "[Q] ")?,
            document_prefix: prefix("document_prefix", "[D] ")?,
            query_tokens: file.get("query_length")?.unwrap_or(QUERY_TOKENS),
            document_tokens: file.get("document_length")?.unwrap_or(DOCUMENT_TOKENS),
            is_expanded,
            attends_to_expansion: is_expanded && attends,
            skipped,
        })
    }
}

/// All punctuation of ASCII.
fn punctuation() -> Vec<String> {
    (0..128_u8).filter(u8::is_ascii_punctuation).map(|sign| char::from(sign).to_string()).collect()
}
