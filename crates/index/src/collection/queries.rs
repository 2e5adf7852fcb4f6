//! Searches, and reading documents. None changes anything.

use std::time::Instant;

use onnxd_proto::search::{
    DocumentId, FUSED_RANKS, Filter, FromIndex, HITS_MAX, Hit, IndexError, IndexErrorKind, Query,
    Shown, Source, Unembedded, fuse,
};
use roaring::RoaringBitmap;

use super::{Collection, Loaded, Memory, changes::parse, wrong_dimension};
use crate::{
    payloads::{Columns, Documents},
    store::{Row, Store},
    vector::Vector,
    vectors::Searchable,
};

/// Bytes of texts that one answer names for embedding.
const UNEMBEDDED_BYTES_MAX: usize = 2 << 20;
/// Bytes of texts, payloads and vectors in one page, unless its first document is larger.
const PAGE_BYTES_MAX: usize = 2 << 20;

/// The documents of a collection, for filters.
pub(super) struct StoredDocuments<'m> {
    pub(super) all: &'m RoaringBitmap,
    pub(super) store: &'m Store,
}

impl Documents for StoredDocuments<'_> {
    type Error = IndexError;

    fn all(&self) -> &RoaringBitmap {
        self.all
    }

    fn keys_of(&self, ids: &[DocumentId]) -> Result<RoaringBitmap, IndexError> {
        let key = |id| Ok(self.store.find(id)?.map(|row| row.key));
        ids.iter().map(key).filter_map(Result::transpose).collect()
    }
}

impl Collection {
    /// Finds the documents nearest to a vector of the query's version.
    ///
    /// # Errors
    /// The collection lacks vectors of that version, or the disk cannot be read.
    pub(crate) fn search(&self, query: &Query, vector: Vector) -> Result<FromIndex, IndexError> {
        let vector = self.comparable(vector)?;
        let wanted = query.offset.saturating_add(query.limit);
        if wanted > HITS_MAX {
            let message = format!("at most {HITS_MAX} documents can be asked for, offset included");
            return Err(IndexErrorKind::Invalid.because(message));
        }
        self.add_columns(&query.filter)?;
        let start = Instant::now();
        self.read(|memory, store| {
            if memory.all.is_empty() {
                let (hits, micros) = (Vec::new(), 0);
                return Ok(FromIndex::Hits { hits, source: Source::Exact, micros });
            }
            let loaded = memory.complete(&query.version, &self.name)?;
            let allowed = memory.matching(&query.filter, store)?;
            let nearest = |limit| loaded.nearest(&vector, allowed.as_ref(), limit, store);
            let mut found = match &query.text {
                None => nearest(wanted)?,
                Some(text) => {
                    let ranks = wanted.max(FUSED_RANKS);
                    let by_text = match_text(store, text, allowed.as_ref(), ranks)?;
                    fuse(&nearest(ranks)?, &by_text)
                }
            };
            let threshold = query.score_threshold.unwrap_or(f32::NEG_INFINITY);
            found.retain(|(_, score)| *score >= threshold);
            let page = found.into_iter().skip(query.offset).take(query.limit);
            let hits = page
                .map(|(key, score)| {
                    let row = store.get(key)?.ok_or_else(|| self.missing(key))?;
                    self.hit(row, score, &query.shown, (memory, store))
                })
                .collect::<Result<_, _>>()?;
            let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            Ok(FromIndex::Hits { hits, source: Source::Exact, micros })
        })
    }

    /// Returns documents from an id on, and the id after them. Fewer than `limit` if they are large.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub(crate) fn scroll(
        &self,
        filter: &Filter,
        from: Option<&DocumentId>,
        limit: usize,
        shown: &Shown,
    ) -> Result<FromIndex, IndexError> {
        let limit = limit.min(HITS_MAX);
        self.add_columns(filter)?;
        self.read(|memory, store| {
            let allowed = memory.matching(filter, store)?;
            let (mut rows, mut next, mut bytes) = (Vec::new(), None, 0);
            store.for_each_document(from, |row| {
                if allowed.as_ref().is_some_and(|allowed| !allowed.contains(row.key)) {
                    return true;
                }
                bytes += shown_bytes(&row, shown, memory);
                if rows.len() == limit || (bytes > PAGE_BYTES_MAX && !rows.is_empty()) {
                    next = Some(row.id);
                    return false;
                }
                rows.push(row);
                true
            })?;
            let hits = rows.into_iter().map(|row| self.hit(row, 0.0, shown, (memory, store)));
            Ok(FromIndex::Page(hits.collect::<Result<_, _>>()?, next))
        })
    }

    /// Returns the documents with these ids that exist.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub(crate) fn retrieve(
        &self,
        ids: &[DocumentId],
        shown: &Shown,
    ) -> Result<FromIndex, IndexError> {
        self.read(|memory, store| {
            let rows = ids.iter().map(|id| store.find(id)).filter_map(Result::transpose);
            let hits = rows.map(|row| self.hit(row?, 0.0, shown, (memory, store)));
            Ok(FromIndex::Page(hits.collect::<Result<_, _>>()?, None))
        })
    }

    /// Counts the documents that satisfy a filter.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub(crate) fn count(&self, filter: &Filter) -> Result<u64, IndexError> {
        self.add_columns(filter)?;
        self.read(|memory, store| {
            let allowed = memory.matching(filter, store)?;
            Ok(allowed.as_ref().unwrap_or(&memory.all).len())
        })
    }

    /// Returns some texts that lack a vector of this version, and how many lack one in all.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub(crate) fn unembedded(
        &self,
        version: &str,
        limit: usize,
    ) -> Result<(Vec<Unembedded>, u64), IndexError> {
        self.read(|memory, store| {
            let missing = match memory.versions.get(version) {
                Some(loaded) => &memory.all - loaded.vectors.present(),
                None => memory.all.clone(),
            };
            let (mut texts, mut bytes) = (Vec::new(), 0);
            for key in missing.iter().take(limit) {
                let Row { key, edition, text, id, .. } =
                    store.get(key)?.ok_or_else(|| self.missing(key))?;
                bytes += text.len();
                if bytes > UNEMBEDDED_BYTES_MAX && !texts.is_empty() {
                    break;
                }
                texts.push(Unembedded { key, edition, text, id: Some(id) });
            }
            Ok((texts, missing.len()))
        })
    }

    /// Adds the columns that a filter needs.
    pub(super) fn add_columns(&self, filter: &Filter) -> Result<(), IndexError> {
        if filter.is_empty() || self.memory().columns.missing(filter).is_empty() {
            return Ok(());
        }
        // As a writer, so that no document changes between reading it and adding its values.
        self.write(|writer| {
            let fields = self.memory().columns.missing(filter);
            let columns = filled_columns(&fields, &writer.store)?;
            Ok(((), move |memory: &mut Memory| {
                memory.columns.append(columns);
                memory.columns.evict();
            }))
        })
    }

    fn hit(
        &self,
        row: Row,
        score: f32,
        shown: &Shown,
        (memory, store): (&Memory, &Store),
    ) -> Result<Hit, IndexError> {
        let loaded = shown.vector.as_ref().and_then(|version| memory.versions.get(version));
        let vector = match loaded {
            Some(loaded) if loaded.vectors.present().contains(row.key) => {
                store.vectors(&loaded.stored, &[row.key])?.pop().and_then(Vector::into_dense)
            }
            _ => None,
        };
        let text = shown.text.then_some(row.text);
        let payload = shown.payload.then_some(row.payload);
        Ok(Hit { id: row.id, score, text, payload, vector })
    }

    fn missing(&self, key: u32) -> IndexError {
        let message = format!(
            "collection {}: document number {key} is missing on disk; delete the collection and import its documents again",
            self.name
        );
        IndexErrorKind::Damaged.because(message)
    }
}

/// Returns the bytes of what is returned of a document.
fn shown_bytes(row: &Row, shown: &Shown, memory: &Memory) -> usize {
    let version = shown.vector.as_ref().and_then(|version| memory.versions.get(version));
    let vector = version.map_or(0, |loaded| loaded.stored.dimension * size_of::<f32>());
    let text = if shown.text { row.text.len() } else { 0 };
    let payload = if shown.payload { row.payload.len() } else { 0 };
    text + payload + vector
}

impl Loaded {
    /// Returns the keys of the `limit` best vectors with their scores.
    fn nearest(
        &self,
        query: &Vector,
        allowed: Option<&RoaringBitmap>,
        limit: usize,
        store: &Store,
    ) -> Result<Vec<(u32, f32)>, IndexError> {
        match (&self.vectors, query) {
            (Searchable::Dense(vectors), Vector::Dense(query))
                if query.len() == self.stored.dimension =>
            {
                vectors.search(query, allowed, limit, |keys| {
                    let vectors = store.vectors(&self.stored, keys)?;
                    Ok(vectors.into_iter().filter_map(Vector::into_dense).collect())
                })
            }
            (Searchable::Sparse(postings), Vector::Sparse(query)) => {
                Ok(postings.search(query, allowed, limit))
            }
            _ => Err(wrong_dimension(self.stored.dimension, query.dimension())),
        }
    }
}

impl Memory {
    /// Returns the version's vectors, which every document must have.
    fn complete(&self, version: &str, collection: &str) -> Result<&Loaded, IndexError> {
        let loaded = self.versions.get(version);
        let present = loaded.map_or(0, |loaded| loaded.vectors.present().len());
        match loaded {
            Some(loaded) if present == self.all.len() => Ok(loaded),
            _ => {
                let message = format!(
                    "collection {collection} has vectors of version {version} for {present} of {} documents; vectors of another version are never compared",
                    self.all.len()
                );
                Err(IndexErrorKind::Version.because(message))
            }
        }
    }

    /// Returns the documents that satisfy a filter; `None` means all.
    pub(super) fn matching(
        &self,
        filter: &Filter,
        store: &Store,
    ) -> Result<Option<RoaringBitmap>, IndexError> {
        if filter.is_empty() {
            return Ok(None);
        }
        let documents = StoredDocuments { all: &self.all, store };
        let fields = self.columns.missing(filter);
        if fields.is_empty() {
            return self.columns.matching(filter, &documents).map(Some);
        }
        // Another filter's columns took the place of this one's.
        let columns = filled_columns(&Columns::default().missing(filter), store)?;
        columns.matching(filter, &documents).map(Some)
    }
}

/// Returns columns for these fields, filled from all documents.
fn filled_columns(fields: &[String], store: &Store) -> Result<Columns, IndexError> {
    let mut columns = Columns::new(fields);
    store.for_each_document(None, |row| {
        columns.change(row.key, None, Some(&parse(&row.payload)));
        true
    })?;
    Ok(columns)
}

/// Returns the documents that best match a text by its words, best first.
fn match_text(
    store: &Store,
    text: &str,
    allowed: Option<&RoaringBitmap>,
    limit: usize,
) -> Result<Vec<u32>, IndexError> {
    let mut found = Vec::new();
    store.match_text(text, |key| {
        if allowed.is_none_or(|allowed| allowed.contains(key)) {
            found.push(key);
        }
        found.len() < limit
    })?;
    Ok(found)
}
