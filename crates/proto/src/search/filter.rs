//! Conditions on the payloads of documents.

use serde::{Deserialize, Serialize};

use super::{CONDITIONS_MAX, DocumentId, FILTER_DEPTH_MAX};

/// Which documents are meant. An empty filter means all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    /// All of these hold.
    pub must: Vec<Condition>,
    /// At least one of these holds, if there are any.
    pub should: Vec<Condition>,
    /// None of these holds.
    pub must_not: Vec<Condition>,
    /// At least this number of the conditions holds.
    pub min_should: Option<(Vec<Condition>, usize)>,
}

/// A condition on one document. A key is a path: `a.b` is field `b` of object `a`, and `a[].b` is
/// that field of any element of array `a`. A field that is an array satisfies a condition if one of
/// its elements does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Condition {
    /// The field has one of these values.
    Any(String, Vec<Scalar>),
    /// The field has a value other than these.
    Except(String, Vec<Scalar>),
    /// The field is a number in this range.
    Range(String, Range),
    /// The field contains all words of this text.
    Text(String, String),
    /// The field is missing, `null` or an empty array.
    IsEmpty(String),
    /// The field is `null`.
    IsNull(String),
    /// The document has one of these ids.
    HasId(Vec<DocumentId>),
    /// The document satisfies a nested filter.
    Nested(Box<Filter>),
}

/// Parses the path of a [`Condition`] into the names of fields, and whether the elements of an array are
/// meant. Every text is a path. A field in double quotes may contain dots.
pub fn path_steps(path: &str) -> Vec<(String, bool)> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let quoted = rest.strip_prefix('"').and_then(|inner| inner.split_once('"'));
        let (name, after) =
            quoted.unwrap_or_else(|| rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())));
        let (is_array, after) = match after.strip_prefix("[]") {
            Some(after) => (true, after),
            None => (false, after),
        };
        steps.push((name.to_owned(), is_array));
        // A bracket with something in it belongs to no path: the step after it finds nothing.
        rest = after.strip_prefix('.').or_else(|| after.strip_prefix('[')).unwrap_or(after);
    }
    steps
}

/// A value of a field that can be compared for equality.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scalar {
    Bool(bool),
    Integer(i64),
    Text(String),
}

/// Bounds of a number. Those that are absent do not limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub gt: Option<f64>,
    pub gte: Option<f64>,
    pub lt: Option<f64>,
    pub lte: Option<f64>,
}

impl Range {
    /// Returns whether a number is within the bounds.
    pub fn contains(&self, number: f64) -> bool {
        self.gt.is_none_or(|bound| number > bound)
            && self.gte.is_none_or(|bound| number >= bound)
            && self.lt.is_none_or(|bound| number < bound)
            && self.lte.is_none_or(|bound| number <= bound)
    }
}

impl Filter {
    /// Returns whether every document satisfies it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether the filter stays within the limits on conditions and levels.
    pub fn is_within_limits(&self) -> bool {
        let mut left = CONDITIONS_MAX;
        self.fits(FILTER_DEPTH_MAX, &mut left)
    }

    fn fits(&self, levels: usize, left: &mut usize) -> bool {
        let min_should = self.min_should.iter().flat_map(|(conditions, _)| conditions);
        let mut all = self.must.iter().chain(&self.should).chain(&self.must_not).chain(min_should);
        levels > 0
            && all.all(|condition| {
                let size = match condition {
                    Condition::Any(_, values) | Condition::Except(_, values) => values.len().max(1),
                    Condition::HasId(ids) => ids.len().max(1),
                    _ => 1,
                };
                let fits = *left >= size;
                *left = left.saturating_sub(size);
                fits && match condition {
                    Condition::Nested(filter) => filter.fits(levels - 1, left),
                    _ => true,
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parsed_into_fields_and_arrays() {
        for (path, steps) in [
            ("", vec![]),
            ("a.b", vec![("a", false), ("b", false)]),
            ("a[].b", vec![("a", true), ("b", false)]),
            ("\"a.b\"[]", vec![("a.b", true)]),
            ("a[0].b", vec![("a", false), ("0]", false), ("b", false)]),
        ] {
            let steps: Vec<_> = steps
                .into_iter()
                .map(|(name, array): (&str, bool)| (name.to_owned(), array))
                .collect();
            assert_eq!(path_steps(path), steps, "{path}");
        }
    }
}
