//! Paths to fields of a payload: `a.b` is field `b` of object `a`, `a[].b` that field of any element
//! of array `a`.

use onnxd_proto::search::path_steps;
use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug)]
pub(super) struct Path {
    text: String,
    /// Names of fields, and whether the elements of an array are meant.
    steps: Vec<(String, bool)>,
}

impl Path {
    /// Parses a path. Every text is one.
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), steps: path_steps(text) }
    }

    /// Returns whether it was parsed from this text.
    pub(super) fn is(&self, text: &str) -> bool {
        self.text == text
    }

    /// Returns the values of the field. The elements of an array are values, not the array.
    pub(super) fn values<'v>(&self, payload: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![payload];
        for (name, is_array) in &self.steps {
            found = found.into_iter().filter_map(|value| value.get(name)).collect();
            if *is_array {
                found = found.into_iter().filter_map(Value::as_array).flatten().collect();
            }
        }
        let elements = |value: &'v Value| match value {
            Value::Array(elements) => elements.iter().collect(),
            value => vec![value],
        };
        found.into_iter().flat_map(elements).collect()
    }
}
