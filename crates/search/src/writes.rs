//! Adds documents: embeds their texts, and stores both once the version that embedded them is sure
//! to be the one that serves. Called by [`crate::service`].

use std::sync::Arc;

use bytes::Bytes;
use onnxd_engine::{
    Engine, EngineError, RequestContext,
    engine::candidates,
    models::{indexes::DocumentOptions, registry::Model},
};
use onnxd_proto::{
    search::{Document, IndexErrorKind, Settings},
    wire::operation::Side,
};

use crate::{
    catalog::{Bound, Catalog},
    documents::{NewDocument, RawVector, with_text},
    embedding::{Kind, embed},
    error::{SearchError, in_time},
    settings::fits_vector,
};

/// Texts that are embedded in one call.
const EMBEDDED_AT_ONCE: usize = 64;
/// Bytes of texts and payloads in one message, which has a limit.
const MESSAGE_BYTES_MAX: usize = 3 << 20;
/// Bytes of vectors in one message.
const VECTOR_BYTES_MAX: usize = 32 << 20;
/// How often texts are embedded again because a commit overtook them. Each time takes a commit.
const ATTEMPTS_MAX: u32 = 10;

/// What a write did.
#[derive(Clone, Debug)]
pub struct Written {
    /// The version that embedded the documents.
    pub version: String,
    /// Documents added or replaced.
    pub documents: u64,
}

/// A document whose vector is known.
struct Embedded {
    document: Document,
    vector: Bytes,
    version: String,
}

/// Adds documents to a collection whose model is known.
pub(crate) async fn put(
    (catalog, engine): (&Catalog, &Engine),
    context: &RequestContext,
    bound: &Bound,
    documents: Vec<NewDocument>,
) -> Result<Written, SearchError> {
    let model = model_of(engine, bound)?;
    let mut written = Written { version: serving(model), documents: 0 };
    let documents: Vec<(Document, Option<RawVector>)> = documents
        .into_iter()
        .map(|document| with_text(&bound.settings, document))
        .collect::<Result<_, _>>()?;
    let mut left = documents.into_iter().peekable();
    while left.peek().is_some() {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        let dimension = bound.settings.dimensions.unwrap_or(4096) as usize;
        while let Some((document, _)) = left.peek() {
            bytes += document.text.len() + document.payload.len() + 64;
            let vectors = (chunk.len() + 1) * dimension * size_of::<f32>();
            if !chunk.is_empty() && (bytes > MESSAGE_BYTES_MAX || vectors > VECTOR_BYTES_MAX) {
                break;
            }
            chunk.extend(left.next());
        }
        let (version, count) = put_chunk((catalog, engine), context, (bound, model), chunk).await?;
        written.version = version;
        written.documents += count;
    }
    Ok(written)
}

async fn put_chunk(
    (catalog, engine): (&Catalog, &Engine),
    context: &RequestContext,
    (bound, model): (&Bound, &Arc<Model>),
    documents: Vec<(Document, Option<RawVector>)>,
) -> Result<(String, u64), SearchError> {
    let mut embedded: Vec<Embedded> = Vec::with_capacity(documents.len());
    let mut texts = Vec::new();
    for (document, vector) in documents {
        match vector {
            Some(vector) => {
                let version = version_of(engine, (bound, model), &vector)?;
                let vector = to_bytes(&vector.components);
                embedded.push(Embedded { document, vector, version });
            }
            None => texts.push(document),
        }
    }
    let mut stale = texts;
    for _ in 0..ATTEMPTS_MAX {
        embedded.extend(embed_documents(engine, context, (bound, model), stale).await?);
        let fence = in_time(context, catalog.hold_commits(model.name.as_str())).await?;
        let version = serving(model);
        let current = |embedded: &Embedded| embedded.version == version;
        if embedded.iter().all(current) {
            let kind = Kind::serving(model);
            let parts = embedded.into_iter().map(|embedded| (embedded.document, embedded.vector));
            let (documents, vectors): (_, Vec<Bytes>) = parts.unzip();
            let target = (bound.name.clone(), bound.settings.embedded_as());
            let message = kind.upsert(target, version.clone(), documents);
            let stored = catalog.count_fenced(message, kind.payload(&vectors), fence);
            return Ok((version, in_time(context, stored).await??));
        }
        drop(fence);
        let (fresh, old): (Vec<_>, Vec<_>) = embedded.into_iter().partition(current);
        embedded = fresh;
        stale = old.into_iter().map(|embedded| embedded.document).collect();
    }
    let message = format!(
        "model `{}` was updated {ATTEMPTS_MAX} times during this write; try again",
        model.name
    );
    Err(SearchError::Index(IndexErrorKind::Storage.because(message)))
}

/// Embeds documents, a few at a time.
async fn embed_documents(
    engine: &Engine,
    context: &RequestContext,
    (bound, model): (&Bound, &Arc<Model>),
    documents: Vec<Document>,
) -> Result<Vec<Embedded>, SearchError> {
    let mut embedded = Vec::with_capacity(documents.len());
    let mut documents = documents.into_iter().peekable();
    while documents.peek().is_some() {
        let some: Vec<Document> = documents.by_ref().take(EMBEDDED_AT_ONCE).collect();
        let texts = some.iter().map(|document| document.text.clone()).collect();
        let request = candidates::request(texts, options(&bound.settings));
        let (_, answer) = embed(engine, context, model, request).await?;
        let version = &answer.origin.record.version;
        embedded.extend(some.into_iter().zip(answer.output).map(|(document, vector)| Embedded {
            document,
            vector,
            version: version.clone(),
        }));
    }
    Ok(embedded)
}

/// Returns how a collection's documents are embedded.
pub(crate) fn options(settings: &Settings) -> DocumentOptions {
    DocumentOptions {
        truncate: Some(Side::Model),
        prompt: settings.document_prompt.clone(),
        dimensions: settings.dimensions,
        normalize: None,
    }
}

/// Returns the model of a collection.
///
/// # Errors
/// The collection has none yet, or it is not served any more.
pub(crate) fn model_of<'e>(
    engine: &'e Engine,
    bound: &Bound,
) -> Result<&'e Arc<Model>, SearchError> {
    let Some(model) = bound.settings.model.as_deref() else {
        let message = format!(
            "collection `{}` is bound to no model yet; name one in its metadata, {{\"model\": \"NAME\"}}, or beside the first text",
            bound.name
        );
        return Err(SearchError::invalid(message));
    };
    engine.find(Some(model)).map_err(|error| not_served(&bound.name, model, &error))
}

/// Says that a collection's model is not served: it was renamed, or is no longer configured.
fn not_served(collection: &str, model: &str, error: &EngineError) -> SearchError {
    let EngineError::ModelNotFound { served, .. } = error else { return error.clone().into() };
    let message = format!(
        "collection `{collection}` is bound to model `{model}`, which is not served (served: {served}); if the model has another name now, start onnxd with --model-alias {model}=NAME, otherwise serve it with --model {model}=SOURCE; or create another collection and import the documents"
    );
    IndexErrorKind::NotFound.because(message).into()
}

/// Returns the version that a model serves, empty if none.
pub(crate) fn serving(model: &Model) -> String {
    model.serving().map(|(_, record)| record.version.clone()).unwrap_or_default()
}

/// Returns which version made a vector: the one that issued it here, or the one that the client names.
pub(crate) fn known_version(engine: &Engine, vector: &RawVector) -> Option<String> {
    let RawVector { components, version } = vector;
    // What this server remembers is surer than what a client says.
    engine.issuer(&to_bytes(components)).or_else(|| version.clone())
}

/// Returns which version made a vector.
///
/// # Errors
/// It is unknown, or not the version that serves, or that version makes other vectors.
pub(crate) fn version_of(
    engine: &Engine,
    (bound, model): (&Bound, &Model),
    vector: &RawVector,
) -> Result<String, SearchError> {
    let serving = serving(model);
    // If the client contradicts what this server remembers, the vector is refused.
    let named = vector.version.clone().filter(|named| *named != serving);
    let version = named.or_else(|| known_version(engine, vector)).ok_or_else(|| {
        IndexErrorKind::Version.because(
            "the model version of this vector is unknown, since this server did not issue it recently; send the text instead, embed it here first, or name the version in the header x-model-version",
        )
    })?;
    if version == serving
        && let Some((_, record)) = model.serving()
    {
        fits_vector(&record.facts, &bound.settings, vector.components.len())
            .map_err(|why| SearchError::invalid(format!("model `{}` {why}", model.name)))?;
    }
    if version != serving {
        let message = format!(
            "the vector was made by version {version}, but model `{}` now serves version {serving}; embed the text again, or send the text itself",
            model.name
        );
        return Err(SearchError::Index(IndexErrorKind::Version.because(message)));
    }
    Ok(version)
}

/// Encodes a vector as the index and workers do.
pub(crate) fn to_bytes(components: &[f32]) -> Bytes {
    components.iter().flat_map(|component| component.to_le_bytes()).collect()
}
