//! Collections of documents and the search in them: what the supervisor and `onnxd-index` say to
//! each other. Both sides frame the messages like those of a worker, see [`crate::wire`].
//!
//! An index belongs to a *version* of a model, known by its digest. A search names the version that
//! embedded its query, and looks only at vectors of that version. So vectors of two models never
//! meet.

mod filter;
mod message;
mod probe;
mod ranking;
mod text;

use serde::{Deserialize, Serialize};

pub use self::{
    filter::{Condition, Filter, Range, Scalar, path_steps},
    message::{
        CatalogEntry, CollectionInfo, FromIndex, Hit, IndexError, IndexErrorKind, PayloadChange,
        Query, Selection, Shown, Source, ToIndex, Unembedded, VersionInfo,
    },
    probe::DatabaseProbe,
    ranking::{FUSED_RANKS, fuse, normalize},
    text::{TEXT_FIELDS, TextChange, text_in},
};

/// Maximum bytes of a collection's name or alias.
pub const COLLECTION_NAME_BYTES_MAX: usize = 255;
/// Maximum collections, and maximum aliases.
pub const COLLECTIONS_MAX: usize = 1024;
/// Maximum bytes of a document's id, if it is a text.
pub const ID_BYTES_MAX: usize = 512;
/// Maximum bytes of a document's payload as JSON.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;
/// Maximum documents of a collection.
pub const DOCUMENTS_MAX: u32 = 4_000_000;
/// Maximum documents that one search, scroll or retrieval returns.
pub const HITS_MAX: usize = 10_000;
/// Maximum documents in one message.
pub const BATCH_MAX: usize = 4096;
/// Maximum components of a vector, and maximum tokens of a sparse one.
pub const VECTOR_COMPONENTS_MAX: usize = 65_536;
/// Maximum conditions of a filter, at all levels.
pub const CONDITIONS_MAX: usize = 1024;
/// Maximum levels of a filter.
pub const FILTER_DEPTH_MAX: usize = 16;

/// Identifies a document in its collection. Numbers sort before texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DocumentId {
    /// A number, as Qdrant's clients use it.
    Number(u64),
    /// A UUID or any other text of at most [`ID_BYTES_MAX`].
    Text(String),
}

impl DocumentId {
    /// Returns bytes that sort like the ids.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Number(number) => [&[0], number.to_be_bytes().as_slice()].concat(),
            Self::Text(text) => [&[1], text.as_bytes()].concat(),
        }
    }

    /// Reads [`DocumentId::to_bytes`]; `None` if the bytes are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (0, number) => Some(Self::Number(u64::from_be_bytes(number.try_into().ok()?))),
            (1, text) => Some(Self::Text(String::from_utf8(text.to_vec()).ok()?)),
            _ => None,
        }
    }
}

/// A document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its id; a document with the same id is replaced.
    pub id: DocumentId,
    /// The text that is embedded.
    pub text: String,
    /// A JSON object of the client's own fields.
    pub payload: String,
}

/// What a collection is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The served name of the model; `None` until the first document names one.
    pub model: Option<String>,
    /// How vectors are compared.
    pub distance: Distance,
    /// Leading components of each embedding to keep; `None` keeps all.
    pub dimensions: Option<u32>,
    /// The dimension that the client declared when it created the collection.
    pub declared_dimension: Option<u32>,
    /// Name of the prompt for documents; `None` for the model's own.
    pub document_prompt: Option<String>,
    /// Name of the prompt for queries; `None` for the model's own.
    pub query_prompt: Option<String>,
    /// The payload field that holds the text, for clients that send a vector beside it.
    pub text_field: Option<String>,
    /// The client's own metadata: a JSON object.
    pub metadata: String,
}

impl Settings {
    /// Returns what the vectors of documents depend on.
    pub fn embedded_as(&self) -> EmbeddedAs {
        let Self { model, dimensions, document_prompt, distance, .. } = self;
        EmbeddedAs {
            model: model.clone(),
            dimensions: *dimensions,
            document_prompt: document_prompt.clone(),
            distance: *distance,
        }
    }

    /// Returns the error for other settings of a collection that has documents.
    pub fn refuse_rebinding(collection: &str) -> IndexError {
        IndexErrorKind::Invalid.because(format!(
            "the model, dimensions, distance and document prompt of collection {collection} cannot change while it has documents; create another collection and import the documents"
        ))
    }
}

/// What the vectors of a collection's documents depend on. The fields are those of [`Settings`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddedAs {
    pub model: Option<String>,
    pub dimensions: Option<u32>,
    pub document_prompt: Option<String>,
    pub distance: Distance,
}

impl EmbeddedAs {
    /// Requires that a collection's documents are embedded like this, as the caller of a change assumes.
    ///
    /// # Errors
    /// The collection was bound to something else meanwhile, or is another one of that name.
    pub fn require(&self, actual: &Self, collection: &str) -> Result<(), IndexError> {
        match self == actual {
            true => Ok(()),
            false => Err(IndexErrorKind::Changed.because(format!(
                "collection {collection} was bound to other settings at the same time; repeat the request"
            ))),
        }
    }
}

/// How vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distance {
    /// The cosine of the angle: both vectors are scaled to length 1.
    Cosine,
    /// The inner product.
    Dot,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_sort_like_their_bytes() {
        let text = |text: &str| DocumentId::Text(text.to_owned());
        let ids =
            [DocumentId::Number(0), DocumentId::Number(u64::MAX), text(""), text("a"), text("é")];
        for pair in ids.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].to_bytes() < pair[1].to_bytes());
        }
        for id in ids {
            assert_eq!(DocumentId::from_bytes(&id.to_bytes()), Some(id));
        }
        assert_eq!(DocumentId::from_bytes(&[0, 1]), None);
        assert_eq!(DocumentId::from_bytes(&[1, 0xff]), None);
        assert_eq!(DocumentId::from_bytes(&[]), None);
    }
}
