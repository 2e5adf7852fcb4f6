//! Parsers of single values. Their errors say what is expected; the caller adds flag and value.

use std::str::FromStr;

/// Parses a flag or variable that is on or off. An empty variable is off, as if it were unset.
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

pub(crate) fn mebibytes(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "expected a whole number of MiB, for example 4096")
}

pub(crate) fn cosine(text: &str) -> Result<f64, &'static str> {
    text.parse().map_err(|_| "expected a number, for example 0.98")
}
