//! Paths to fields of a payload: `a.b` is field `b` of object `a`, `a[].b` that field of any element
//! of array `a`.

use onnxd_proto::search::path_steps;

use super::Values;

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// Names of fields, and whether the elements of an array are meant.
    steps: Vec<(String, bool)>,
}

impl Path {
    /// Parses a path. Every text is one.
    pub(super) fn new(text: &str) -> Self {
        Self { steps: path_steps(text) }
    }

    /// Returns a FROM clause with each value of the field as `v`. The elements of an array are
    /// values, not the array.
    pub(super) fn values(&self, values: &mut Values) -> String {
        let (mut from, value) = self.elements(values);
        from.push(format!(
            "jsonb_array_elements(CASE WHEN {value} IS NULL THEN '[]'
            WHEN jsonb_typeof({value}) = 'array' THEN {value}
            ELSE jsonb_build_array({value}) END) e(v)"
        ));
        format!("FROM {}", from.join(", "))
    }

    /// Returns the condition that a value of the field satisfies a condition.
    pub(super) fn any(&self, values: &mut Values, condition: impl Fn(&str) -> String) -> String {
        let (from, value) = self.elements(values);
        // Most fields are no arrays, and need no subquery.
        let satisfies = format!(
            "CASE jsonb_typeof({value}) WHEN 'array' THEN EXISTS (
                SELECT FROM jsonb_array_elements({value}) e(v) WHERE {})
            ELSE coalesce({}, false) END",
            condition("v"),
            condition(&value)
        );
        match from.is_empty() {
            true => format!("({satisfies})"),
            false => format!("(EXISTS (SELECT FROM {} WHERE {satisfies}))", from.join(", ")),
        }
    }

    /// Returns payloads, one of which every payload contains whose field has a value.
    pub(super) fn examples(&self, value: &str) -> [String; 2] {
        [value.to_owned(), format!("[{value}]")].map(|innermost| {
            self.steps.iter().rev().fold(innermost, |inner, (name, is_array)| {
                let name = serde_json::Value::from(name.as_str());
                if *is_array {
                    format!("{{{name}:[{inner}]}}")
                } else {
                    format!("{{{name}:{inner}}}")
                }
            })
        })
    }

    /// Returns what follows FROM to reach the elements of arrays on the way, and the value.
    fn elements(&self, values: &mut Values) -> (Vec<String>, String) {
        let mut from = Vec::new();
        let mut value = "d.payload".to_owned();
        for (place, (name, is_array)) in self.steps.iter().enumerate() {
            value = format!("({value} -> {}::text)", values.add(name.clone()));
            if *is_array {
                from.push(format!(
                    "jsonb_array_elements(CASE jsonb_typeof({value}) WHEN 'array' THEN {value}
                    ELSE '[]' END) e{place}(v{place})"
                ));
                value = format!("v{place}");
            }
        }
        (from, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_with_the_value_contains_an_example() {
        let examples = Path::new("a[].\"b.c\"").examples("1");
        assert_eq!(examples, [r#"{"a":[{"b.c":1}]}"#, r#"{"a":[{"b.c":[1]}]}"#]);
    }
}
