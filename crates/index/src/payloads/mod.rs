//! Payloads of documents: finds the documents that satisfy a filter. Values of a field are collected
//! into a [`Column`] when a filter names the field for the first time. Called by
//! [`crate::collection`].

mod column;
mod path;

use onnxd_proto::search::{Condition, DocumentId, Filter};
use roaring::RoaringBitmap;
use serde_json::Value;

use self::column::Column;
use self::path::Path;

/// Fields whose values are kept in memory; the oldest column makes room for another.
const COLUMNS_MAX: usize = 64;

/// The columns of a collection, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Columns(Vec<(Path, Column)>);

/// What evaluating a filter needs to know about the collection.
pub(crate) trait Documents {
    /// The error of reading documents.
    type Error;

    /// Returns the keys of all documents.
    fn all(&self) -> &RoaringBitmap;

    /// Returns the keys of the documents with these ids that exist.
    fn keys_of(&self, ids: &[DocumentId]) -> Result<RoaringBitmap, Self::Error>;
}

impl Columns {
    /// Returns the fields that a filter needs and that have no column yet.
    pub(crate) fn missing(&self, filter: &Filter) -> Vec<String> {
        let mut keys = Vec::new();
        collect_keys(filter, &mut keys);
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| self.find(key).is_none());
        keys
    }

    /// Returns empty columns for these fields.
    pub(crate) fn new(fields: &[String]) -> Self {
        Self(fields.iter().map(|field| (Path::new(field), Column::default())).collect())
    }

    /// Adds filled columns.
    pub(crate) fn append(&mut self, mut columns: Self) {
        self.0.append(&mut columns.0);
    }

    /// Removes the oldest columns beyond the limit.
    pub(crate) fn evict(&mut self) {
        let excess = self.0.len().saturating_sub(COLUMNS_MAX);
        self.0.drain(..excess);
    }

    /// Records that a document's payload changed from `old` to `new`; `None` means no document.
    pub(crate) fn change(&mut self, key: u32, old: Option<&Value>, new: Option<&Value>) {
        for (path, column) in &mut self.0 {
            if let Some(old) = old {
                column.remove(key, &path.values(old));
            }
            if let Some(new) = new {
                column.insert(key, &path.values(new));
            }
        }
    }

    /// Returns whether no field has a column, so that changes need no payloads.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the documents that satisfy a filter, whose columns must exist.
    ///
    /// # Errors
    /// Ids could not be looked up.
    pub(crate) fn matching<D: Documents>(
        &self,
        filter: &Filter,
        documents: &D,
    ) -> Result<RoaringBitmap, D::Error> {
        let mut found = documents.all().clone();
        for condition in &filter.must {
            found &= self.satisfying(condition, documents)?;
        }
        if !filter.should.is_empty() {
            let mut any = RoaringBitmap::new();
            for condition in &filter.should {
                any |= self.satisfying(condition, documents)?;
            }
            found &= any;
        }
        for condition in &filter.must_not {
            found -= self.satisfying(condition, documents)?;
        }
        if let Some((conditions, at_least)) = &filter.min_should {
            // `reached[n]` are the documents that satisfy more than n of the conditions so far.
            let mut reached = vec![RoaringBitmap::new(); (*at_least).min(conditions.len() + 1)];
            for condition in conditions {
                let satisfied = self.satisfying(condition, documents)?;
                for count in (0..reached.len()).rev() {
                    let further = match count {
                        0 => satisfied.clone(),
                        _ => &reached[count - 1] & &satisfied,
                    };
                    reached[count] |= further;
                }
            }
            if let Some(enough) = reached.last() {
                found &= enough;
            }
        }
        Ok(found)
    }

    fn satisfying<D: Documents>(
        &self,
        condition: &Condition,
        documents: &D,
    ) -> Result<RoaringBitmap, D::Error> {
        let of = |key: &str, find: &dyn Fn(&Column) -> RoaringBitmap| {
            self.find(key).map(find).unwrap_or_default()
        };
        Ok(match condition {
            Condition::Any(key, values) => of(key, &|column| column.any(values)),
            Condition::Except(key, values) => of(key, &|column| column.except(values)),
            Condition::Range(key, range) => of(key, &|column| column.within(range)),
            Condition::Text(key, text) => of(key, &|column| column.with_words(text)),
            Condition::IsEmpty(key) => documents.all() - of(key, &|column| column.filled().clone()),
            Condition::IsNull(key) => of(key, &|column| column.null().clone()),
            Condition::HasId(ids) => documents.keys_of(ids)?,
            Condition::Nested(filter) => self.matching(filter, documents)?,
        })
    }

    fn find(&self, key: &str) -> Option<&Column> {
        self.0.iter().find(|(path, _)| path.is(key)).map(|(_, column)| column)
    }
}

fn collect_keys(filter: &Filter, keys: &mut Vec<String>) {
    let min_should = filter.min_should.iter().flat_map(|(conditions, _)| conditions);
    for condition in
        filter.must.iter().chain(&filter.should).chain(&filter.must_not).chain(min_should)
    {
        match condition {
            Condition::Any(key, _)
            | Condition::Except(key, _)
            | Condition::Range(key, _)
            | Condition::Text(key, _)
            | Condition::IsEmpty(key)
            | Condition::IsNull(key) => keys.push(key.clone()),
            Condition::HasId(_) => {}
            Condition::Nested(filter) => collect_keys(filter, keys),
        }
    }
}

#[cfg(test)]
#[path = "payloads_tests.rs"]
mod tests;
