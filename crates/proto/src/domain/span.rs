//! Spans of traces on their way from the supervisor to the exporter, `onnxd-fetch export`: one JSON
//! object a line. The exporter answers with an [`ExportReport`] a line.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A finished span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Identifier of the whole trace; never 0.
    pub trace: u128,
    /// Identifier of this span; never 0.
    pub id: u64,
    /// The span that caused this one; `None` at the root of a trace.
    pub parent: Option<u64>,
    pub name: Cow<'static, str>,
    /// Whether a client's request caused it. Other spans are internal.
    pub is_server: bool,
    /// Nanoseconds since the Unix epoch.
    pub start: u64,
    /// Nanoseconds since the Unix epoch; not before `start`.
    pub end: u64,
    pub attributes: Vec<Attribute>,
    /// Why the operation failed, if it did.
    pub error: Option<String>,
}

/// A name and a value.
pub type Attribute = (Cow<'static, str>, Value);

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Number(i64),
    Text(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// Spans that the exporter has dealt with since its last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// Spans that the collector took.
    pub exported: u64,
    /// Spans that the collector did not take.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_survive_a_line_of_json() {
        let span = Span {
            trace: u128::MAX,
            id: u64::MAX,
            parent: Some(1),
            name: "POST /embed".into(),
            is_server: true,
            start: 1,
            end: 2,
            attributes: vec![("http.route".into(), "a\nb".into()), ("tokens".into(), 7.into())],
            error: None,
        };
        let line = serde_json::to_string(&span).unwrap();
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(serde_json::from_str::<Span>(&line).unwrap(), span);
    }
}
