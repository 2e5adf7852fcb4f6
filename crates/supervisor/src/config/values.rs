//! Parses single values. Errors say what is expected; the caller adds the flag and the value.

use std::str::FromStr;

use onnxd_proto::generation::Generation;

/// Parses a boolean. An empty variable means false, as if it were unset.
pub(crate) fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "" | "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("expected true or false"),
    }
}

/// Parses a `NonZero` integer.
pub(crate) fn count<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "expected a whole number of at least 1")
}

pub(crate) fn seconds(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "expected a whole number of seconds, for example 30")
}

/// Parses the number of a generation.
pub(crate) fn generation(text: &str) -> Result<Generation, &'static str> {
    text.parse().map_err(|_| "expected the number of a generation, for example 3")
}

pub(crate) fn mebibytes(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "expected a whole number of MiB, for example 4096")
}

pub(crate) fn cosine(text: &str) -> Result<f64, &'static str> {
    let cosine = text.parse().ok().filter(|cosine| (-1.0..=1.0).contains(cosine));
    cosine.ok_or("expected a number from -1 to 1, for example 0.98")
}

pub(crate) fn ratio(text: &str) -> Result<f64, &'static str> {
    onnxd_telemetry::tracer::ratio(text)
        .map_err(|_| "expected a number from 0 to 1, for example 0.01")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_is_a_number_from_minus_1_to_1() {
        assert_eq!(cosine("0.98"), Ok(0.98));
        assert_eq!(cosine("-1"), Ok(-1.0));
        for text in ["7", "1.01", "NaN", "inf", "x", ""] {
            assert!(cosine(text).is_err(), "{text}");
        }
    }
}
