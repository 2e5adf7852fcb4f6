//! Changes of documents, payloads and vectors.

use std::collections::BTreeSet;

use onnxd_proto::search::{
    DOCUMENTS_MAX, Document, EmbeddedAs, IndexError, IndexErrorKind, PayloadChange, Selection,
    TextChange,
};
use roaring::RoaringBitmap;
use serde_json::{Map, Value};

use super::{Collection, Loaded, Memory, Writer, wrong_dimension};
use crate::{
    store::{Row, Store, StoredVersion},
    vector::Vector,
};

/// One document's change in memory.
struct Change {
    key: u32,
    /// The payloads before and after; `None` means no document.
    payloads: (Option<String>, Option<String>),
    /// Whether vectors of other versions belong to an older text.
    text_changed: bool,
    vector: Vector,
}

impl Collection {
    /// Adds or replaces documents with their vectors of `version`. Vectors of other versions stay if
    /// the text is unchanged. Returns the number of documents.
    ///
    /// # Errors
    /// The collection is full, or embedded in another way; a vector does not fit the version, or the
    /// disk is full.
    pub(crate) fn upsert(
        &self,
        (embedded_as, version): (&EmbeddedAs, &str),
        documents: Vec<Document>,
        vectors: Vec<Vector>,
    ) -> Result<u64, IndexError> {
        if documents.len() != vectors.len() {
            let message = format!("{} vectors for {} documents", vectors.len(), documents.len());
            return Err(IndexErrorKind::Invalid.because(message));
        }
        let vectors = vectors.into_iter().map(|vector| self.comparable(vector));
        let vectors: Vec<Vector> = vectors.collect::<Result<_, _>>()?;
        self.write(|writer| {
            embedded_as.require(&writer.embedded_as, &self.name)?;
            let versions = writer.store.versions()?;
            let stored = match vectors.first() {
                Some(vector) => Some(self.stored_version(writer, version, vector.dimension())?),
                None => None,
            };
            let mut free = Free { taken: self.memory().all.clone(), next: writer.free_from };
            let mut changes = Vec::with_capacity(documents.len());
            let count = documents.len() as u64;
            if let Some(stored) = &stored {
                for (document, vector) in documents.into_iter().zip(vectors) {
                    if vector.dimension() != stored.dimension {
                        return Err(wrong_dimension(stored.dimension, vector.dimension()));
                    }
                    let change = writer.upsert(document, (stored, &versions), &mut free, vector)?;
                    changes.push(change);
                }
            }
            writer.free_from = free.next;
            Ok((count, move |memory: &mut Memory| {
                if let Some(stored) = stored {
                    let new = || Loaded::new(stored.clone());
                    memory.versions.entry(stored.version.clone()).or_insert_with(new);
                    changes.into_iter().for_each(|change| memory.apply(change, &stored.version));
                }
            }))
        })
    }

    /// Removes documents. Returns how many there were.
    ///
    /// # Errors
    /// The documents cannot be read, or the disk is full.
    pub(crate) fn delete(&self, which: &Selection) -> Result<u64, IndexError> {
        self.prepare_columns(which)?;
        self.write(|writer| {
            let versions = writer.store.versions()?;
            let rows = self.selected(&writer.store, which)?;
            for row in &rows {
                writer.store.remove(row)?;
                writer.free_from = writer.free_from.min(row.key);
                for version in &versions {
                    writer.store.remove_vector(version, row.key)?;
                }
            }
            let count = rows.len() as u64;
            Ok((count, move |memory: &mut Memory| {
                for row in rows {
                    memory.all.remove(row.key);
                    memory.versions.values_mut().for_each(|loaded| loaded.vectors.remove(row.key));
                    memory.change_payload(row.key, Some(&row.payload), None);
                }
            }))
        })
    }

    /// Changes the payloads of documents. `text_field` is that of the settings. Returns how many
    /// documents there are.
    ///
    /// # Errors
    /// A payload would show another text than its document's, or grow too large; the documents cannot
    /// be read, or the disk is full.
    pub(crate) fn change_payload(
        &self,
        which: &Selection,
        change: &PayloadChange,
        text_field: Option<&str>,
    ) -> Result<u64, IndexError> {
        self.prepare_columns(which)?;
        let texts = TextChange::of(change, text_field);
        self.write(|writer| {
            let mut changed = Vec::new();
            for old in self.selected(&writer.store, which)? {
                if !texts.is_empty() {
                    texts.check(&old.id, &old.text, &old.payload)?;
                }
                let new = Row { payload: changed_payload(&old.payload, change)?, ..old.clone() };
                writer.store.put(&new, Some(&old))?;
                changed.push((old.key, old.payload, new.payload));
            }
            let count = changed.len() as u64;
            Ok((count, move |memory: &mut Memory| {
                for (key, old, new) in changed {
                    memory.change_payload(key, Some(&old), Some(&new));
                }
            }))
        })
    }

    /// Adds vectors of a version to documents whose edition is still the given one. Returns how many
    /// were added.
    ///
    /// # Errors
    /// A vector does not fit the version, or the disk is full.
    pub(crate) fn embedded(
        &self,
        (embedded_as, version): (&EmbeddedAs, &str),
        documents: &[(u32, u64)],
        vectors: Vec<Vector>,
    ) -> Result<u64, IndexError> {
        let vectors = vectors.into_iter().map(|vector| self.comparable(vector));
        let vectors: Vec<Vector> = vectors.collect::<Result<_, _>>()?;
        let Some(first) = vectors.first() else { return Ok(0) };
        let dimension = first.dimension();
        self.write(|writer| {
            embedded_as.require(&writer.embedded_as, &self.name)?;
            let stored = self.stored_version(writer, version, dimension)?;
            let mut added = Vec::new();
            for ((key, edition), vector) in documents.iter().zip(vectors) {
                if vector.dimension() != stored.dimension {
                    return Err(wrong_dimension(stored.dimension, vector.dimension()));
                }
                let row = writer.store.get(*key)?;
                if row.is_some_and(|row| row.edition == *edition) {
                    writer.store.put_vector(&stored, *key, &vector)?;
                    added.push((*key, vector));
                }
            }
            let count = added.len() as u64;
            Ok((count, move |memory: &mut Memory| {
                let new = || Loaded::new(stored.clone());
                let loaded = memory.versions.entry(stored.version.clone()).or_insert_with(new);
                for (key, vector) in added {
                    loaded.vectors.insert(key, &vector);
                }
            }))
        })
    }

    /// Returns the selected documents that exist.
    fn selected(&self, store: &Store, which: &Selection) -> Result<Vec<Row>, IndexError> {
        let keys = match which {
            Selection::Ids(ids) => {
                // One that is named twice is one document.
                let ids: BTreeSet<_> = ids.iter().collect();
                let rows = ids.into_iter().map(|id| store.find(id));
                return rows.filter_map(Result::transpose).collect();
            }
            Selection::Matching(filter) => {
                let memory = self.memory();
                memory.matching(filter, store)?.unwrap_or_else(|| memory.all.clone())
            }
        };
        keys.iter().map(|key| store.get(key)).filter_map(Result::transpose).collect()
    }

    /// Adds the columns that a selection needs.
    fn prepare_columns(&self, which: &Selection) -> Result<(), IndexError> {
        match which {
            Selection::Ids(_) => Ok(()),
            Selection::Matching(filter) => self.add_columns(filter),
        }
    }
}

impl Writer {
    fn upsert(
        &mut self,
        document: Document,
        (stored, others): (&StoredVersion, &[StoredVersion]),
        free: &mut Free,
        vector: Vector,
    ) -> Result<Change, IndexError> {
        let Document { id, text, payload } = document;
        let old = self.store.find(&id)?;
        let key = match &old {
            Some(old) => old.key,
            None => free.take()?,
        };
        let text_changed = old.as_ref().is_none_or(|old| old.text != text);
        let edition = match &old {
            Some(old) if !text_changed => old.edition,
            _ => {
                self.last_edition += 1;
                self.last_edition
            }
        };
        let new = Row { key, id, edition, text, payload };
        self.store.put(&new, old.as_ref())?;
        if text_changed {
            for other in others.iter().filter(|other| *other != stored) {
                self.store.remove_vector(other, key)?;
            }
        }
        self.store.put_vector(stored, key, &vector)?;
        let payloads = (old.map(|old| old.payload), Some(new.payload));
        Ok(Change { key, payloads, text_changed, vector })
    }
}

impl Memory {
    /// Returns the keys that have a vector of this version.
    pub(super) fn present(&self, version: &str) -> RoaringBitmap {
        let loaded = self.versions.get(version);
        loaded.map(|loaded| loaded.vectors.present().clone()).unwrap_or_default()
    }

    fn apply(&mut self, change: Change, version: &str) {
        let Change { key, payloads: (old, new), text_changed, vector } = change;
        self.all.insert(key);
        for (name, loaded) in &mut self.versions {
            if name == version {
                loaded.vectors.insert(key, &vector);
            } else if text_changed {
                loaded.vectors.remove(key);
            }
        }
        self.change_payload(key, old.as_deref(), new.as_deref());
    }

    fn change_payload(&mut self, key: u32, old: Option<&str>, new: Option<&str>) {
        if !self.columns.is_empty() {
            let (old, new) = (old.map(parse), new.map(parse));
            self.columns.change(key, old.as_ref(), new.as_ref());
        }
    }
}

/// Keys that no document has.
struct Free {
    taken: RoaringBitmap,
    next: u32,
}

impl Free {
    /// Returns the lowest free key, so that vectors stay dense.
    fn take(&mut self) -> Result<u32, IndexError> {
        while self.taken.contains(self.next) {
            self.next += 1;
        }
        if self.next >= DOCUMENTS_MAX {
            let message = format!(
                "the collection has {DOCUMENTS_MAX} documents, which is the limit; delete some, or use another collection"
            );
            return Err(IndexErrorKind::Full.because(message));
        }
        self.taken.insert(self.next);
        Ok(self.next)
    }
}

/// Parses a payload. One that is no JSON has no fields.
pub(super) fn parse(payload: &str) -> Value {
    serde_json::from_str(payload).unwrap_or_default()
}

fn changed_payload(old: &str, change: &PayloadChange) -> Result<String, IndexError> {
    let object = |payload: &str| match parse(payload) {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    let changed = match change {
        PayloadChange::Replace(new) => return Ok(new.clone()),
        PayloadChange::Set(fields) => {
            let mut all = object(old);
            all.extend(object(fields));
            all
        }
        PayloadChange::Remove(fields) => {
            let mut all = object(old);
            fields.iter().for_each(|field| drop(all.shift_remove(field)));
            all
        }
    };
    let changed = Value::Object(changed).to_string();
    match changed.len() <= onnxd_proto::search::PAYLOAD_BYTES_MAX {
        true => Ok(changed),
        false => Err(IndexErrorKind::Full.because("a payload would grow beyond its limit")),
    }
}
