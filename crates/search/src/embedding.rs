//! Embeds texts densely or sparsely, as the model does, and encodes vectors for the index. Called by
//! [`crate::writes`], [`crate::searches`] and [`crate::reembed`].

use std::sync::Arc;

use bytes::Bytes;
use onnxd_engine::{
    Engine, EngineError, RequestContext,
    engine::{Answer, texts::Embed},
    models::registry::Model,
};
use onnxd_proto::{
    domain::Task,
    search::{Document, EmbeddedAs, Query, ToIndex},
    wire::operation::SPARSE_ENTRY_BYTES,
};

/// Tasks whose models embed documents.
pub(crate) const TASKS: [Task; 2] = [Task::Embed, Task::Sparse];

/// The kind of a model's vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One number for each component.
    Dense,
    /// Tokens with their weights, as SPLADE computes them.
    Sparse,
}

impl Kind {
    /// Returns the kind of a model's vectors by its task.
    pub(crate) fn of(task: Task) -> Self {
        match task {
            Task::Sparse => Self::Sparse,
            _ => Self::Dense,
        }
    }

    /// Returns the kind of the vectors of the serving version; dense if none serves.
    pub(crate) fn serving(model: &Model) -> Self {
        model.serving().map_or(Self::Dense, |(_, record)| Self::of(record.facts.task))
    }

    /// Encodes vectors as the payload of a message.
    pub(crate) fn payload(self, vectors: &[Bytes]) -> Bytes {
        match self {
            Self::Dense => vectors.concat().into(),
            Self::Sparse => {
                let mut payload = Vec::new();
                for vector in vectors {
                    // Never more tokens than a vocabulary has.
                    let tokens =
                        u32::try_from(vector.len() / SPARSE_ENTRY_BYTES).unwrap_or(u32::MAX);
                    payload.extend_from_slice(&tokens.to_le_bytes());
                    payload.extend_from_slice(vector);
                }
                payload.into()
            }
        }
    }

    /// Returns the message that adds documents.
    pub(crate) fn upsert(
        self,
        (collection, embedded_as): (String, EmbeddedAs),
        version: String,
        documents: Vec<Document>,
    ) -> ToIndex {
        match self {
            Self::Dense => ToIndex::Upsert { collection, embedded_as, version, documents },
            Self::Sparse => ToIndex::UpsertSparse { collection, embedded_as, version, documents },
        }
    }

    /// Returns the message that adds vectors to documents.
    pub(crate) fn embedded(
        self,
        (collection, embedded_as): (String, EmbeddedAs),
        version: String,
        documents: Vec<(u32, u64)>,
    ) -> ToIndex {
        match self {
            Self::Dense => ToIndex::Embedded { collection, embedded_as, version, documents },
            Self::Sparse => ToIndex::EmbeddedSparse { collection, embedded_as, version, documents },
        }
    }

    /// Returns the message that searches.
    pub(crate) fn search(self, collection: String, query: Query) -> ToIndex {
        match self {
            Self::Dense => ToIndex::Search { collection, query },
            Self::Sparse => ToIndex::SearchSparse { collection, query },
        }
    }
}

/// Embeds texts as the model does.
///
/// # Errors
/// The model does not embed texts, or it failed; see [`Engine::embed`].
pub(crate) async fn embed(
    engine: &Engine,
    context: &RequestContext,
    model: &Arc<Model>,
    request: Embed,
) -> Result<(Kind, Answer<Vec<Bytes>>), EngineError> {
    let (_, record) = engine.ready(context, model, &TASKS).await?;
    let kind = Kind::of(record.facts.task);
    let answer = match kind {
        Kind::Dense => engine.embed(context, model, request).await?,
        Kind::Sparse => engine.embed_sparse(context, model, request).await?,
    };
    Ok((kind, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_vectors_are_counted_in_tokens() {
        let vectors = [Bytes::from_static(&[1, 0, 0, 0, 0, 0, 128, 63]), Bytes::new()];
        let payload = Kind::Sparse.payload(&vectors);
        assert_eq!(payload[..], [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 128, 63, 0, 0, 0, 0]);
        assert_eq!(Kind::Dense.payload(&vectors)[..], vectors[0][..]);
    }
}
