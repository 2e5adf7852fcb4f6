//! Payloads as `jsonb`, which keeps numbers as decimals. They are written such that a number is an
//! integer in the database only if it is one in the payload.

use onnxd_proto::search::{IndexError, IndexErrorKind};
use serde_json::{Number, Value};

/// Below this, all floating-point numbers print with a fraction or an exponent.
const EXACT_MAX: f64 = 1e19;

/// Returns the text of a payload for the database.
///
/// # Errors
/// The payload is no JSON object.
pub(crate) fn to_database(payload: &str) -> Result<String, IndexError> {
    let invalid = |reason: String| {
        IndexErrorKind::Invalid.because(format!("a payload is no JSON object: {reason}"))
    };
    let value: Value = serde_json::from_str(payload).map_err(|error| invalid(error.to_string()))?;
    if !value.is_object() {
        return Err(invalid("expected {…}".to_owned()));
    }
    let mut text = String::with_capacity(payload.len());
    write(&value, &mut text);
    Ok(text)
}

/// Returns a payload of the database as compact JSON.
pub(crate) fn from_database(payload: &str) -> String {
    serde_json::from_str::<Value>(payload)
        .map_or_else(|_| "{}".to_owned(), |value| value.to_string())
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Number(number) => text.push_str(&decimal(number)),
        Value::Array(elements) => {
            text.push('[');
            for (place, element) in elements.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { "," });
                write(element, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push('{');
            for (place, (name, value)) in fields.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { "," });
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        simple => text.push_str(&simple.to_string()),
    }
}

/// Returns a number such that `1e2`, which is no integer in JSON, does not become `100`.
fn decimal(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.abs() < EXACT_MAX && float.fract() == 0.0 => {
            format!("{float:.1}")
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_integers_are_integers_in_the_database() {
        for (payload, stored) in [
            (
                r#"{"a": [1, 2.0, 1e2, -0, 1e16], "b": {"c": null}}"#,
                r#"{"a":[1,2.0,100.0,-0.0,10000000000000000.0],"b":{"c":null}}"#,
            ),
            (r#"{"a": 1e300, "b": 0.1, "ü\"": "\n"}"#, r#"{"a":1e+300,"b":0.1,"ü\"":"\n"}"#),
            (r#"{"a": 18446744073709551615}"#, r#"{"a":18446744073709551615}"#),
        ] {
            assert_eq!(to_database(payload).unwrap(), stored);
        }
        assert!(to_database("[]").is_err() && to_database("{").is_err());
    }
}
