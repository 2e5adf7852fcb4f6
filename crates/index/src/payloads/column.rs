//! The values of one field in all documents.

use std::{collections::BTreeMap, ops::Bound};

use onnxd_proto::search::{Range, Scalar};
use roaring::RoaringBitmap;
use serde_json::Value;

/// Which documents have which values.
#[derive(Debug, Default)]
pub(super) struct Column {
    values: BTreeMap<Scalar, RoaringBitmap>,
    /// By [`sortable`] bits.
    numbers: BTreeMap<u64, RoaringBitmap>,
    words: BTreeMap<String, RoaringBitmap>,
    /// Documents with a value that is not null.
    filled: RoaringBitmap,
    null: RoaringBitmap,
}

impl Column {
    /// Adds the values of a document.
    pub(super) fn insert(&mut self, key: u32, values: &[&Value]) {
        for value in values {
            match value {
                Value::Null => {
                    self.null.insert(key);
                    continue;
                }
                Value::Number(number) => {
                    if let Some(number) = number.as_f64() {
                        self.numbers.entry(sortable(number)).or_default().insert(key);
                    }
                }
                Value::String(text) => {
                    for word in words(text) {
                        self.words.entry(word).or_default().insert(key);
                    }
                }
                _ => {}
            }
            self.filled.insert(key);
            if let Some(scalar) = scalar(value) {
                self.values.entry(scalar).or_default().insert(key);
            }
        }
    }

    /// Removes the values of a document, which [`Column::insert`] added.
    pub(super) fn remove(&mut self, key: u32, values: &[&Value]) {
        self.filled.remove(key);
        self.null.remove(key);
        for value in values {
            if let Some(scalar) = scalar(value) {
                take(&mut self.values, &scalar, key);
            }
            match value {
                Value::Number(number) => {
                    if let Some(number) = number.as_f64() {
                        take(&mut self.numbers, &sortable(number), key);
                    }
                }
                Value::String(text) => {
                    words(text).for_each(|word| take(&mut self.words, &word, key));
                }
                _ => {}
            }
        }
    }

    /// Returns the documents with one of these values.
    pub(super) fn any(&self, values: &[Scalar]) -> RoaringBitmap {
        let mut found = RoaringBitmap::new();
        for documents in values.iter().filter_map(|value| self.values.get(value)) {
            found |= documents;
        }
        found
    }

    /// Returns the documents with a value other than these.
    pub(super) fn except(&self, values: &[Scalar]) -> RoaringBitmap {
        let mut found = RoaringBitmap::new();
        for (_, documents) in self.values.iter().filter(|(value, _)| !values.contains(value)) {
            found |= documents;
        }
        found
    }

    /// Returns the documents with a number in this range.
    pub(super) fn within(&self, range: &Range) -> RoaringBitmap {
        let Range { gt, gte, lt, lte } = range;
        let bits = |bound: &f64| sortable(*bound);
        let lower = [
            gt.as_ref().map(|gt| Bound::Excluded(bits(gt))),
            gte.as_ref().map(|gte| Bound::Included(bits(gte))),
        ];
        let lower = lower.into_iter().flatten().max_by_key(|bound| match bound {
            Bound::Excluded(bits) => (*bits, true),
            Bound::Included(bits) => (*bits, false),
            Bound::Unbounded => (0, false),
        });
        let numbers = self.numbers.range((lower.unwrap_or(Bound::Unbounded), Bound::Unbounded));
        let mut found = RoaringBitmap::new();
        let is_below = |bits: u64| {
            lt.is_none_or(|lt| bits < sortable(lt)) && lte.is_none_or(|lte| bits <= sortable(lte))
        };
        for (_, documents) in numbers.take_while(|(bits, _)| is_below(**bits)) {
            found |= documents;
        }
        found
    }

    /// Returns the documents in which every word of a text occurs.
    pub(super) fn with_words(&self, text: &str) -> RoaringBitmap {
        let mut found: Option<RoaringBitmap> = None;
        for word in words(text) {
            let documents = self.words.get(&word).cloned().unwrap_or_default();
            found = Some(match found {
                Some(found) => found & documents,
                None => documents,
            });
        }
        found.unwrap_or_default()
    }

    /// Returns the documents with a value that is not null.
    pub(super) fn filled(&self) -> &RoaringBitmap {
        &self.filled
    }

    /// Returns the documents with a value that is null.
    pub(super) fn null(&self) -> &RoaringBitmap {
        &self.null
    }
}

fn take<K: Ord>(map: &mut BTreeMap<K, RoaringBitmap>, value: &K, key: u32) {
    if let Some(documents) = map.get_mut(value) {
        documents.remove(key);
        if documents.is_empty() {
            map.remove(value);
        }
    }
}

/// Returns a value that can be compared for equality. A number with a fraction cannot.
fn scalar(value: &Value) -> Option<Scalar> {
    match value {
        Value::Bool(value) => Some(Scalar::Bool(*value)),
        Value::Number(number) => number.as_i64().map(Scalar::Integer),
        Value::String(text) => Some(Scalar::Text(text.clone())),
        _ => None,
    }
}

/// Returns the words of a text in lower case.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

/// Returns bits that sort like the numbers. Both zeros have the same bits.
fn sortable(number: f64) -> u64 {
    let bits = (number + 0.0).to_bits();
    let sign = 1 << 63;
    if bits & sign == 0 { bits | sign } else { !bits }
}
