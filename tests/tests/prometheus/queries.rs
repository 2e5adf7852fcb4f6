//! Finds the metrics of onnxd in `PromQL`, and the labels that select their series.

/// A metric in a query.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selector<'a> {
    pub name: &'a str,
    /// The labels in braces.
    pub labels: Vec<&'a str>,
}

/// Returns the metrics in a text. Names with colons belong to recording rules and are left out.
pub(crate) fn selectors(text: &str) -> Vec<Selector<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_name) {
        let (name, after) = split(&rest[start..]);
        rest = after;
        if name.contains(':') || !["onnxd_", "process_"].iter().any(|of| name.starts_with(of)) {
            continue;
        }
        let braces = after.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        let labels = braces.map(|(inside, _)| labels(inside)).unwrap_or_default();
        found.push(Selector { name, labels });
    }
    found
}

/// Returns the labels in `model="m", code=~"5.."`.
fn labels(inside: &str) -> Vec<&str> {
    // Outside of quotes: labels, operators and commas.
    let outside = inside.split('"').step_by(2);
    let label = |part| {
        let part = str::trim_start_matches(part, [',', ' ']);
        Some(split(part).0).filter(|label| !label.is_empty())
    };
    outside.filter_map(label).collect()
}

/// Splits a name from what follows it.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(|character| !is_name(character)).unwrap_or(text.len()))
}

fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || ['_', ':'].contains(&character)
}

#[test]
fn metrics_and_labels_are_found() {
    let query = r#"sum by (route) (rate(onnxd_a_total{code=~"5..|{}", model="m,x"}[5m])) / a:onnxd_b:sum
        + 0.5 * onnxd_c > process_d{}"#;
    let found: Vec<_> = selectors(query).into_iter().map(|of| (of.name, of.labels)).collect();
    let expected = [("onnxd_a_total", vec!["code"]), ("onnxd_c", vec![]), ("process_d", vec![])];
    // A brace in a value ends the labels early.
    assert_eq!(found, expected);
    assert_eq!(labels(r#"code=~"5..", model="m,x""#), ["code", "model"]);
}
