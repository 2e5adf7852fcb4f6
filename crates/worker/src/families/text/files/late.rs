//! Settings of late-interaction models: the prefixes and lengths of queries and documents, and the
//! document tokens to skip. Uses the field names of pylate and of Stanford's ColBERT.

use onnxd_proto::domain::Refusal;

use super::{Files, json::contract};

/// Default lengths of a query and a document in tokens, as in pylate.
const QUERY_TOKENS: u32 = 32;
const DOCUMENT_TOKENS: u32 = 180;
/// Maximum words that documents can skip.
const SKIPPED_MAX: usize = 4096;

/// How both sides of a search are prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Late {
    /// The token inserted after the first one; empty for no token.
    pub(crate) query_prefix: String,
    pub(crate) document_prefix: String,
    /// The longest text in tokens, including the prefix.
    pub(crate) query_tokens: u32,
    pub(crate) document_tokens: u32,
    /// Whether queries are padded with mask tokens, whose vectors count.
    pub(crate) is_expanded: bool,
    /// Whether the mask tokens are attended to.
    pub(crate) attends_to_expansion: bool,
    /// Tokens whose document vectors are dropped.
    pub(crate) skipped: Vec<String>,
}

impl Late {
    /// Reads `config_sentence_transformers.json`.
    ///
    /// # Errors
    /// The file is malformed.
    pub(crate) fn read(files: &Files<'_>) -> Result<Self, Refusal> {
        let file = &files.sentence;
        let prefix = |field: &str, usual: &str| {
            Ok::<_, Refusal>(file.get(field)?.unwrap_or_else(|| usual.to_owned()))
        };
        let skipped: Vec<String> = file.get("skiplist_words")?.unwrap_or_else(punctuation);
        if skipped.len() > SKIPPED_MAX {
            let name = file.name();
            return Err(contract(format!(
                "{name}: skiplist_words has more than {SKIPPED_MAX} entries"
            )));
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

/// Returns all ASCII punctuation.
fn punctuation() -> Vec<String> {
    (0..128_u8).filter(u8::is_ascii_punctuation).map(|sign| char::from(sign).to_string()).collect()
}
