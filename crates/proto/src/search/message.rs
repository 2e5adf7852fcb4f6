//! The messages between the supervisor and the process that owns the collections: `onnxd-index`, or
//! `onnxd-postgres`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Document, DocumentId, EmbeddedAs, Filter, Settings};

/// A request of the supervisor. Vectors are in the payload: little-endian f32, one after another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToIndex {
    /// Lists the collections with their counts, for which all of them are opened. Answered by
    /// `Collections`.
    List,
    /// Creates a collection. Answered by `Done`.
    Create(String, Settings),
    /// Changes what a collection is bound to. Refused if it has documents whose vectors would become
    /// others. Answered by `Done`.
    Configure(String, Settings),
    /// Removes a collection with its documents and aliases. Answered by `Done`.
    Drop(String),
    /// Removes the aliases of the first list, then adds those of the second, each with its
    /// collection; all or none. Answered by `Done`.
    SetAliases(Vec<String>, Vec<(String, String)>),
    /// Adds or replaces documents, whose vectors are in the payload. Answered by `Changed`.
    Upsert {
        collection: String,
        /// How the texts were embedded. Refused if that has changed.
        embedded_as: EmbeddedAs,
        /// The version that embedded the texts.
        version: String,
        documents: Vec<Document>,
    },
    /// Removes documents. Answered by `Changed`.
    Delete { collection: String, which: Selection },
    /// Changes payloads. Answered by `Changed`.
    ChangePayload { collection: String, which: Selection, change: PayloadChange },
    /// Finds the documents nearest to the query vector in the payload. Answered by `Hits`.
    Search { collection: String, query: Query },
    /// Returns documents in the order of their ids. Answered by `Page`.
    Scroll {
        collection: String,
        filter: Filter,
        /// The first id to return.
        from: Option<DocumentId>,
        limit: usize,
        shown: Shown,
    },
    /// Returns the documents with these ids that exist. Answered by `Page`.
    Retrieve { collection: String, ids: Vec<DocumentId>, shown: Shown },
    /// Counts documents. Answered by `Changed`.
    Count { collection: String, filter: Filter },
    /// Returns some documents that lack a vector of this version. Answered by `Unembedded`. In a
    /// collection that shows a table of PostgreSQL, any program may change texts at any time. Asking
    /// every second finds them: the question costs nothing while the table is unchanged.
    Unembedded { collection: String, version: String, limit: usize },
    /// Adds vectors of a version to documents, unless their texts have changed since. Refused if the
    /// way in which they are embedded has. Answered by `Changed`.
    Embedded {
        collection: String,
        embedded_as: EmbeddedAs,
        version: String,
        /// Each document's key and edition, as `Unembedded` gave them.
        documents: Vec<(u32, u64)>,
    },
    /// Removes all vectors of versions other than these. An alias names no collection here, nor in the
    /// next two messages: it may have been given to another one. Answered by `Done`.
    Keep { collection: String, versions: Vec<String> },
    /// Removes all vectors of this version. Answered by `Done`.
    Discard { collection: String, version: String },
    /// Gives documents that lack a vector of version `to` their vector of version `from`: the caller
    /// knows that both versions compute the same, or was told so. The index remembers it as
    /// [`VersionInfo::reused_from`]. Answered by `Changed`.
    Reuse { collection: String, from: String, to: String },
    /// [`ToIndex::Upsert`] with sparse vectors. In the payload, each vector begins with its number of
    /// tokens (u32). Each token is a u32 with its weight, an f32; all are little-endian.
    UpsertSparse {
        collection: String,
        embedded_as: EmbeddedAs,
        version: String,
        documents: Vec<Document>,
    },
    /// [`ToIndex::Embedded`] with sparse vectors.
    EmbeddedSparse {
        collection: String,
        embedded_as: EmbeddedAs,
        version: String,
        documents: Vec<(u32, u64)>,
    },
    /// [`ToIndex::Search`] with a sparse vector. Scores are inner products, whatever the collection's
    /// distance.
    SearchSparse { collection: String, query: Query },
    /// Says which version serves the collection's model now. `onnxd-postgres` shows its vectors to
    /// other programs; `onnxd-index` has none to show them to. Answered by `Done`.
    Committed { collection: String, version: String },
    /// Lists what the catalog says about the collections. Opens none of them. Answered by `Names`.
    Names,
    /// Describes the collection with this name or alias. Answered by `Collections`.
    Describe(String),
}

impl ToIndex {
    /// Returns whether the request changes something.
    pub fn is_change(&self) -> bool {
        match self {
            Self::List
            | Self::Names
            | Self::Describe(_)
            | Self::Search { .. }
            | Self::SearchSparse { .. }
            | Self::Scroll { .. }
            | Self::Retrieve { .. }
            | Self::Count { .. }
            | Self::Unembedded { .. } => false,
            Self::Create(..)
            | Self::Configure(..)
            | Self::Drop(_)
            | Self::SetAliases(..)
            | Self::Upsert { .. }
            | Self::UpsertSparse { .. }
            | Self::Delete { .. }
            | Self::ChangePayload { .. }
            | Self::Embedded { .. }
            | Self::EmbeddedSparse { .. }
            | Self::Keep { .. }
            | Self::Discard { .. }
            | Self::Reuse { .. }
            | Self::Committed { .. } => true,
        }
    }
}

/// Which documents a change concerns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Selection {
    Ids(Vec<DocumentId>),
    Matching(Filter),
}

/// A change of payloads. Payloads are JSON objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PayloadChange {
    /// Sets the fields of this object and leaves the others.
    Set(String),
    /// Replaces the whole payload.
    Replace(String),
    /// Removes these fields.
    Remove(Vec<String>),
}

/// A search in the vectors of one version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// The version that embedded the query.
    pub version: String,
    pub filter: Filter,
    pub limit: usize,
    pub offset: usize,
    /// Leaves out documents with a lower score.
    pub score_threshold: Option<f32>,
    /// Also ranks by full text, and combines both ranks.
    pub text: Option<String>,
    pub shown: Shown,
}

/// Which parts of a document are returned beside its id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    pub text: bool,
    pub payload: bool,
    /// The vector of this version.
    pub vector: Option<String>,
}

/// A returned document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    pub id: DocumentId,
    /// Higher is nearer; 0 if nothing was compared.
    pub score: f32,
    pub text: Option<String>,
    /// A JSON object.
    pub payload: Option<String>,
    /// `None` if it was not asked for, or if the version's vectors are sparse.
    pub vector: Option<Vec<f32>>,
}

/// A text to embed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unembedded {
    /// The document's number in its collection.
    pub key: u32,
    /// Changes with the text.
    pub edition: u64,
    pub text: String,
    /// Names the document in errors, if it is known.
    pub id: Option<DocumentId>,
}

/// A collection and how far each version's vectors are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionInfo {
    pub name: String,
    pub settings: Settings,
    pub aliases: Vec<String>,
    pub documents: u64,
    pub versions: Vec<VersionInfo>,
    /// Why the collection, or a document of it, cannot be used. Documents and versions may be unknown then.
    pub damaged: Option<String>,
}

/// A collection as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogEntry {
    pub name: String,
    pub aliases: Vec<String>,
    pub settings: Settings,
}

/// A version whose vectors a collection has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Its digest.
    pub version: String,
    /// Components of a vector; 0 if the vectors are sparse.
    pub dimension: u32,
    /// Documents that have a vector of it.
    pub documents: u64,
    /// The version whose vectors some of these are, if any.
    pub reused_from: Option<String>,
}

/// Where a search got its result from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Every vector was compared.
    Exact,
    /// A graph of neighbours was followed.
    Graph,
}

/// An answer of `onnxd-index`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromIndex {
    Done,
    /// How many documents were changed or counted.
    Changed(u64),
    Collections(Vec<CollectionInfo>),
    Hits {
        hits: Vec<Hit>,
        source: Source,
        /// Time spent on the request, from its start.
        micros: u64,
    },
    /// Documents, and the id at which the next page begins.
    Page(Vec<Hit>, Option<DocumentId>),
    /// Texts to embed, and how many documents lack a vector in all.
    Unembedded(Vec<Unembedded>, u64),
    Failed(IndexError),
    /// Collections by name.
    Names(Vec<CatalogEntry>),
}

/// Why a request of a collection failed.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct IndexError {
    pub kind: IndexErrorKind,
    /// The cause and the remedy.
    pub message: String,
}

/// The kind of an [`IndexError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexErrorKind {
    /// No such collection.
    NotFound,
    /// A collection or alias of that name exists.
    Exists,
    /// The request is wrong.
    Invalid,
    /// A limit is reached, or the disk is full.
    Full,
    /// The vectors belong to another version than the collection has.
    Version,
    /// The collection's files or the database cannot be used.
    Storage,
    /// The collection's files are damaged.
    Damaged,
    /// The collection is embedded in another way than the caller assumed. The request may be repeated.
    Changed,
    /// The database cannot be reached now. The request may be repeated later.
    Unavailable,
}

impl IndexErrorKind {
    /// Returns an error of this kind.
    pub fn because(self, message: impl Into<String>) -> IndexError {
        IndexError { kind: self, message: message.into() }
    }
}
